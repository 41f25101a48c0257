import Kernel
import Synchronization
import SystemPackage
import Tuners

/// A tuner from outside that is loaded: its process runs, its hooks are attached.
struct LoadedModule: Sendable {
  /// Why one is not loaded.
  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  let module: ModuleDescription
  let host: ModuleHost
  let source: UInt16
  let lines: [Hooks.Line]
  let attached: [Attached]

  /// Throws when it is not to be trusted, does not work, or is in the way of
  /// another tuner.
  init(
    _ name: String, in directory: FileDescriptor, path: String,
    besides others: [TunerDescription], source: UInt16, programs: Programs, loop: KernelLoop
  ) async throws {
    let file = try ModuleFile.open(name, in: directory, path: path)
    let host: ModuleHost
    do {
      host = try ModuleHost(module: file, loop: loop)
      try? file.close()
    } catch {
      try? file.close()
      throw error
    }
    do {
      let (module, object) = try await host.describe()
      try Self.check(module, name, besides: others)
      _ = try await host.call(.initialize)
      programs.provide(object, for: source)
      var lines: [Hooks.Line] = []
      var attached: [Attached] = []
      for signal in try programs.signals(of: module, source: source) {
        let (report, hook) = programs.attach(signal, source: source)
        lines.append(Hooks.Line(owner: module.name, report: report))
        if let hook { attached.append(hook) }
      }
      guard !attached.isEmpty else {
        let refusals = lines.flatMap { $0.report.refusals.map { "\($0.hook): \($0.reason)" } }
        throw Failure(
          description:
            "this kernel takes none of its programs (\(refusals.joined(separator: "; ")))")
      }
      (self.module, self.host, self.source) = (module, host, source)
      (self.lines, self.attached) = (lines, attached)
    } catch {
      await host.end()
      throw error
    }
  }

  private static func check(
    _ module: ModuleDescription, _ file: String, besides others: [TunerDescription]
  ) throws {
    guard file == module.name + ".so" else {
      throw Failure(
        description: "it calls itself \(module.name), and so its file has to be \(module.name).so")
    }
    for other in others {
      if other.name == module.name {
        throw Failure(description: "a tuner \(module.name) is there already")
      }
      if let both = module.tunables.first(where: { other.tunables.contains($0) }) {
        throw Failure(description: "\(both.name) is a tunable of the tuner \(other.name) already")
      }
    }
  }
}

/// Tuners from outside, loaded for a moment, as `check` does; without a daemon.
struct LookedAtModules {
  private(set) var lines: [Hooks.Line] = []
  /// Paths with the reasons.
  private(set) var refusals: [String] = []

  /// The calling thread becomes a kernel loop until it is done.
  init(_ options: Options, programs: Programs) throws {
    let loop = try KernelLoop()
    let found = Mutex(LookedAtModules())
    Task(executorPreference: loop) {
      let modules = await Self.look(options, programs, loop)
      found.withLock { $0 = modules }
      loop.stop()
    }
    loop.run()
    self = found.withLock { $0 }
  }

  private init() {}

  private static func look(
    _ options: Options, _ programs: Programs, _ loop: KernelLoop
  ) async -> LookedAtModules {
    var looked = LookedAtModules()
    var taken = tuners.map { $0.description }
    var source = Hooks.Source.modules.lowerBound
    for directory in options.moduleDirectories {
      do {
        guard let opened = try ModuleFile.openDirectory(directory) else { continue }
        defer { try? opened.close() }
        for name in ModuleFile.names(in: opened) where options.allows(String(name.dropLast(3))) {
          let path = directory + "/" + name
          defer { source += 1 }
          do {
            let loaded = try await LoadedModule(
              name, in: opened, path: path, besides: taken, source: source, programs: programs,
              loop: loop)
            looked.lines += loaded.lines
            taken.append(
              TunerDescription(name: loaded.module.name, tunables: loaded.module.tunables))
            await loaded.host.end()
          } catch {
            looked.refusals.append("\(path): \(error)")
          }
        }
      } catch {
        looked.refusals.append("\(directory): \(error)")
      }
    }
    return looked
  }
}
