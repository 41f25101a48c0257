import Kernel
import Logging
import SystemPackage
import Tuners

/// Tuners from outside: finds them in their directories, loads and unloads them as
/// their files come and go, and disables those that misbehave.
actor Modules {
  /// A tuner from outside as others see it.
  struct Seen: Sendable {
    let description: TunerDescription
    let path: String
    /// Of its events; nil where it is not loaded.
    let source: UInt16?
    /// Why it does not run; nil where it does.
    let trouble: String?
    let lines: [Hooks.Line]
    let programs: [Attached]
  }

  private struct Entry {
    let identity: ModuleFile.Identity
    var running: Running?
    /// What is known of one that does not run.
    var description: TunerDescription
    var trouble: String?
  }

  private struct Running {
    let module: LoadedModule
    let tuner: ModuleTuner
    let work: Task<Void, Never>
    /// Waits for the end of its process.
    let guardian: Task<Void, Never>
  }

  private let options: Options
  private let programs: Programs
  private let pump: EventPump
  private let around: NetworkNamespace.Surroundings
  private let supervisor: Supervisor
  nonisolated var unownedExecutor: UnownedSerialExecutor {
    around.loop.asUnownedSerialExecutor()
  }

  /// By path.
  private var entries: [String: Entry] = [:]
  /// Directories that are refused, and why.
  private var refused: [String: String] = [:]
  private var watch: DirectoryWatch?
  private var isStopped = false
  private var nextSource = Hooks.Source.modules.lowerBound
  private let changes: AsyncStream<Void>
  private let change: AsyncStream<Void>.Continuation

  init(
    options: Options, programs: Programs, pump: EventPump,
    around: NetworkNamespace.Surroundings, supervisor: Supervisor
  ) {
    self.options = options
    self.programs = programs
    self.pump = pump
    self.around = around
    self.supervisor = supervisor
    (changes, change) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
  }

  // MARK: Running

  /// Loads what is there; what comes later is loaded by `run()`.
  func start() async {
    do {
      watch = try DirectoryWatch(loop: around.loop) { [change] in change.yield() }
    } catch {
      around.log.warning("tuners that come later are not noticed: \(error)")
    }
    await scan()
  }

  func run() async {
    for await _ in changes { await scan() }
  }

  /// Unloads all of them.
  func stop() async {
    isStopped = true
    change.finish()
    watch?.close()
    watch = nil
    for path in entries.keys.sorted() { await unload(path) }
    entries = [:]
  }

  /// All that are or were to be loaded, by name.
  func all() -> [Seen] {
    entries.map { path, entry in
      Seen(
        description: entry.running?.tuner.description ?? entry.description, path: path,
        source: entry.running?.module.source, trouble: entry.trouble,
        lines: entry.running?.module.lines ?? [], programs: entry.running?.module.attached ?? [])
    }.sorted { ($0.description.name, $0.path) < ($1.description.name, $1.path) }
  }

  /// Has one loaded again that was disabled for what it did; whether there was such.
  func retry(_ name: String) -> Bool {
    let found = entries.first { $0.value.description.name == name && $0.value.trouble != nil }
    guard let path = found?.key else { return false }
    entries[path] = nil
    change.yield()
    return true
  }

  // MARK: Looking

  private func scan() async {
    let directories = options.moduleDirectories
    watch?.watch(directories)
    var found: Set<String> = []
    for directory in directories {
      do throws(ModuleFile.Refusal) {
        guard let opened = try ModuleFile.openDirectory(directory) else {
          refused[directory] = nil
          continue
        }
        defer { try? opened.close() }
        refused[directory] = nil
        for name in ModuleFile.names(in: opened) where options.allows(String(name.dropLast(3))) {
          let path = directory + "/" + name
          guard found.insert(path).inserted else { continue }
          await look(at: path, name, in: opened)
        }
      } catch {
        if refused.updateValue(error.description, forKey: directory) != error.description {
          around.log.warning("no tuners are loaded from \(directory): \(error)")
        }
      }
    }
    for path in entries.keys.sorted() where !found.contains(path) {
      let wasRunning = entries[path]?.running != nil
      await unload(path)
      entries[path] = nil
      if wasRunning {
        around.log.notice("\(path) is gone, or not to be trusted: its tuner is unloaded")
      }
    }
  }

  private func look(at path: String, _ name: String, in directory: FileDescriptor) async {
    guard !isStopped, let identity = ModuleFile.identity(name, in: directory) else { return }
    let before = entries[path]?.trouble
    if let known = entries[path] {
      guard known.identity != identity else { return }
      if known.running != nil {
        around.log.notice("\(path) has changed: its tuner is loaded again")
      }
      await unload(path)
    }
    let stem = String(name.dropLast(3))
    entries[path] = Entry(
      identity: identity, description: TunerDescription(name: stem, tunables: []))
    do {
      try await load(path, name, in: directory, identity)
    } catch {
      entries[path]?.trouble = "\(error)"
      // While its owner and its mode are being set, each step tells of the same.
      if error is ModuleFile.Refusal, before == "\(error)" { return }
      around.log.warning("\(path) is not loaded: \(error)")
    }
  }

  // MARK: Loading

  private func load(
    _ path: String, _ name: String, in directory: FileDescriptor, _ identity: ModuleFile.Identity
  ) async throws {
    var taken = tuners.map { $0.description }
    taken += entries.values.compactMap { $0.running?.tuner.description }
    let source = freeSource()
    let events = pump.events(of: source)
    let module: LoadedModule
    do {
      module = try await LoadedModule(
        name, in: directory, path: path, besides: taken, source: source, programs: programs,
        loop: around.loop)
    } catch {
      programs.detach(source)
      pump.forget(source)
      throw error
    }
    guard !isStopped else { return await module.host.end() }
    let description = TunerDescription(
      name: module.module.name, tunables: module.module.tunables)
    for tunable in description.tunables {
      do { try programs.watch(tunable) } catch { around.log.warning("\(error)") }
    }
    await around.journal.remember(description.tunables)
    let tuner = ModuleTuner(
      module.module, host: module.host, loop: around.loop, namespaces: supervisor,
      log: around.log)
    await supervisor.add(tuner)
    let work = Task(executorPreference: around.loop) { await tuner.run(events) }
    let host = module.host
    let guardian = Task(executorPreference: around.loop) { [weak self] in
      for await failure in host.ended { await self?.disable(path, identity, failure) }
    }
    entries[path]?.description = description
    entries[path]?.running = Running(
      module: module, tuner: tuner, work: work, guardian: guardian)
    around.log.notice(
      "\(description.name) is loaded from \(path), which \(module.module.about)")
    // Opening a BPF object takes the kernel's type information, some megabytes.
    Memory.giveBackFreed()
    for line in module.lines where line.report.hook == nil {
      let refusals = line.report.refusals.map { "\($0.hook): \($0.reason)" }
      around.log.warning(
        "\(description.name): \(line.report.signal.name): by nothing (\(refusals.joined(separator: "; ")))"
      )
    }
  }

  private func freeSource() -> UInt16 {
    let used = Set(entries.values.compactMap { $0.running?.module.source })
    while used.contains(nextSource) { advance() }
    defer { advance() }
    return nextSource
  }

  private func advance() {
    nextSource =
      nextSource == Hooks.Source.modules.upperBound
      ? Hooks.Source.modules.lowerBound : nextSource + 1
  }

  /// It did what it must not: it stays known, with the reason.
  private func disable(
    _ path: String, _ identity: ModuleFile.Identity, _ failure: ModuleHost.Failure
  ) async {
    guard let entry = entries[path], entry.identity == identity, entry.running != nil else {
      return
    }
    entries[path]?.trouble = failure.description
    let name = entry.description.name
    around.log.error(
      "\(name) is disabled: \(failure) (\(path)); \"bpftune enable \(name)\" loads it again")
    await around.journal.note(
      "disabled: \(failure)", tuner: name, in: around.directory.own, name: "init")
    await unload(path)
  }

  /// Takes everything of it out of the kernel and the daemon, but for the values
  /// that it has set.
  private func unload(_ path: String) async {
    guard let running = entries[path]?.running else { return }
    entries[path]?.running = nil
    await supervisor.remove(running.tuner)
    programs.detach(running.module.source)
    pump.forget(running.module.source)
    for tunable in running.module.module.tunables { programs.unwatch(tunable) }
    running.work.cancel()
    await running.module.host.end()
    await running.work.value
  }
}
