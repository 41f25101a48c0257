import Kernel
import Logging
import Tuners

/// Runs the daemon's actors as one task group: the tuners, the sysctl watch,
/// and a `NetworkNamespace` for each namespace, spawned when it appears and
/// torn down when it goes.
actor Supervisor: NamespaceProvider {
  let around: NetworkNamespace.Surroundings
  private let learningRate: LearningRate
  let policies: [any Policy.Type]
  nonisolated var unownedExecutor: UnownedSerialExecutor {
    around.loop.asUnownedSerialExecutor()
  }

  private(set) var namespaces: [NamespaceID: NetworkNamespace] = [:]
  private(set) var tuners: [any AnyTuner] = []
  /// Tuners from outside, by name.
  private(set) var modules: [String: ModuleTuner] = [:]
  private var watch: SysctlWatch?
  /// Unbounded, since what is in it exists already.
  private let spawned: AsyncStream<NetworkNamespace>
  private let spawn: AsyncStream<NetworkNamespace>.Continuation
  private let appeared: AsyncStream<Void>
  private let appear: AsyncStream<Void>.Continuation

  /// What administrators disabled in namespaces that cannot be reached any
  /// more, should they come back; and what they disabled everywhere.
  private var remembered: [NamespaceID: [String: AdministratorWrite]] = [:]
  private var everywhere: [String: AdministratorWrite] = [:]
  /// Tuners that were turned off everywhere by command.
  private var turnedOff: Set<String> = []
  private static let mostRemembered = 1024

  init(
    around: NetworkNamespace.Surroundings, policies: [any Policy.Type], learningRate: LearningRate
  ) {
    self.around = around
    self.policies = policies
    self.learningRate = learningRate
    (spawned, spawn) = AsyncStream.makeStream()
    (appeared, appear) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
  }

  // MARK: Running

  /// Serves until `stop()`. Events of the tuners come in the order of
  /// `policies`.
  func run(
    hooks: Hooks, tunerEvents: [AsyncStream<KernelEvent>],
    sysctlEvents: AsyncStream<KernelEvent>, namespaceEvents: AsyncStream<KernelEvent>,
    losses: AsyncStream<EventPump.Losses>, modules: Modules,
    ready: @Sendable (_ tuners: [String]) -> Void
  ) async {
    let watch = SysctlWatch(
      tuners: policies.map { $0.description }, loop: around.loop, namespaces: self,
      log: around.log)
    self.watch = watch
    tuners = policies.map {
      $0.tuner(
        loop: around.loop, learningRate: learningRate, namespaces: self,
        request: hooks.requests[$0.name], lookingEvery: hooks.looks[$0.name],
        table: hooks.tables[$0.name], log: around.log)
    }
    _ = namespace(around.directory.own)
    await adoptExisting(hooks)
    await modules.start()
    await takeUp()
    await startWarm()
    ready(policies.map { $0.name } + self.modules.keys.sorted())

    await withDiscardingTaskGroup { group in
      group.addTask { await watch.run(sysctlEvents) }
      for (tuner, events) in zip(tuners, tunerEvents) {
        group.addTask { await tuner.run(events) }
      }
      group.addTask { await self.follow(namespaceEvents) }
      group.addTask {
        await self.sweepWhileNeeded(
          always: hooks.missNamespaces, once: hooks.hearNamespacesEnd)
      }
      group.addTask { await self.makeUp(for: losses) }
      group.addTask { await modules.run() }
      for poll in hooks.polls {
        group.addTask { await self.run(poll) }
      }
      for await namespace in spawned {
        group.addTask { await namespace.run() }
      }
      group.cancelAll()
    }
  }

  /// Ends every namespace actor, and with them `run()`; puts back first what
  /// was changed if asked to. How many tunables were put back.
  func stop(rollBack: Bool) async -> Int {
    var count = 0
    watch = nil
    for namespace in namespaces.values {
      if rollBack { count += await namespace.rollBack() }
      namespace.finish()
    }
    namespaces = [:]
    spawn.finish()
    appear.finish()
    return count
  }

  /// What the tuners have found out, for the summary.
  func findings() async -> [String] {
    var all: [String] = []
    for tuner in tuners { all += await tuner.findings() }
    return all
  }

  // MARK: Tuners from outside

  /// From now on it is served as the others are.
  func add(_ tuner: ModuleTuner) async {
    modules[tuner.module.name] = tuner
    tuners.append(tuner)
    await watch?.add(tuner.description)
    for id in namespaces.keys { tuner.appeared(id) }
    for holding in await around.journal.holdings() { await tuner.recall(holding) }
  }

  func remove(_ tuner: ModuleTuner) async {
    modules[tuner.module.name] = nil
    tuners.removeAll { $0 === tuner }
    await watch?.remove(tuner.description)
  }

  // MARK: NamespaceProvider

  func namespace(_ id: NamespaceID) -> NetworkNamespace {
    if let namespace = namespaces[id] { return namespace }
    let disabled = (remembered.removeValue(forKey: id) ?? [:]).merging(everywhere) { $1 }
    let namespace = NetworkNamespace(
      id, around: around, disabled: disabled, turnedOff: turnedOff)
    namespaces[id] = namespace
    for tuner in modules.values { tuner.appeared(id) }
    if id != around.directory.own {
      around.log.debug("\(id): watching it")
      appear.yield()
    }
    spawn.yield(namespace)
    return namespace
  }

  func own() -> NetworkNamespace { namespace(around.directory.own) }

  func read<R: Sendable>(
    in id: NamespaceID, _ body: @Sendable () throws -> R
  ) async -> R? {
    do {
      return try await around.directory.inside(id, body).get()
    } catch NamespaceDirectory.Failure.gone {
      return nil
    } catch {
      around.log.warning("\(id): \(error)")
      return nil
    }
  }

  func ids() -> [NamespaceID] { Array(namespaces.keys) }

  func survey(_ read: @Sendable () throws -> Int64) async -> Int64 {
    var sum: Int64 = 0
    for id in namespaces.keys {
      do {
        let result = try await around.directory.inside(id, read)
        sum = sum.addingReportingOverflow(try result.get()).partialValue
      } catch NamespaceDirectory.Failure.gone {
        continue
      } catch {
        around.log.warning("\(id): \(error)")
      }
    }
    return sum
  }

  func administratorWroteGlobally(_ write: AdministratorWrite) {
    everywhere[write.tuner] = everywhere[write.tuner] ?? write
    closeGateEverywhere(of: write.tuner)
    for namespace in namespaces.values { namespace.administratorWrote(write) }
  }

  /// Also in namespaces that have not been heard of yet.
  private func closeGateEverywhere(of tuner: String) {
    do {
      try around.gates?.close(tuner, in: nil)
    } catch {
      around.log.error("\(tuner) goes on: \(error)")
    }
  }

  // MARK: By command

  /// Every namespace that is known, the lowest inode number first.
  func all() -> [NetworkNamespace] { namespaces.values.sorted { $0.id.inode < $1.id.inode } }

  var count: Int { namespaces.count }

  /// One that is known; does not start an actor for another.
  func known(_ id: NamespaceID) -> NetworkNamespace? { namespaces[id] }

  /// Turns a tuner off, or on again, in one namespace or everywhere; in how many
  /// that made a difference.
  func turn(_ tuner: String, on: Bool, in place: NamespaceID?) async -> Int {
    if place == nil {
      if on {
        turnedOff.remove(tuner)
        everywhere[tuner] = nil
        for id in remembered.keys { remembered[id]?[tuner] = nil }
        around.gates?.open(tuner, in: nil)
      } else {
        turnedOff.insert(tuner)
        closeGateEverywhere(of: tuner)
      }
    }
    var count = 0
    for (id, namespace) in namespaces where place == nil || place == id {
      if await namespace.turn(tuner, on: on) { count += 1 }
    }
    return count
  }

  /// The same of one that an earlier daemon has seen.
  func recallGlobally(_ write: AdministratorWrite) async {
    everywhere[write.tuner] = everywhere[write.tuner] ?? write
    for namespace in namespaces.values { await namespace.recall(write) }
  }

  // MARK: Namespaces come and go

  private func adoptExisting(_ hooks: Hooks) async {
    for place in await around.directory.reachable().values {
      if let id = await around.directory.identify(place) { _ = namespace(id) }
    }
    for adoption in hooks.adoptions {
      for id in namespaces.keys { await iterate(adoption, in: id) }
    }
  }

  private func follow(_ events: AsyncStream<KernelEvent>) async {
    for await event in events {
      guard let scenario = NamespaceWatch.Scenario(rawValue: event.scenario),
        event.namespace != around.directory.own
      else { continue }
      if scenario == .ended {
        await retire(event.namespace, forGood: true)
        continue
      }
      // The inode number is in use again: whoever had it is gone.
      for id in namespaces.keys where id.inode == event.namespace.inode && id != event.namespace {
        await retire(id, forGood: true)
      }
      await around.directory.note(event.namespace, at: .process(event.process))
      _ = namespace(event.namespace)
    }
  }

  /// Looks for namespaces that have gone, 5 seconds after one has come and
  /// then less and less often; not at all while there is only the own one,
  /// unless no hook tells of new ones. Where a hook tells of their end, `once`
  /// is enough: an event that came late may have brought one back.
  private func sweepWhileNeeded(always: Bool, once: Bool) async {
    let often = Duration.seconds(5)
    let seldom = always ? Duration.seconds(10) : .seconds(60)
    if always { appear.yield() }
    for await _ in appeared {
      var interval = often
      while always || namespaces.count > 1, !Task.isCancelled {
        let before = Set(namespaces.keys)
        await around.loop.sleep(for: interval)
        if Task.isCancelled { return }
        await sweep(adopting: always)
        if once, !always { break }
        interval = Set(namespaces.keys) == before ? min(interval * 2, seldom) : often
      }
    }
  }

  /// Says what was lost, and looks for what it may have told of namespaces; at
  /// most once in ten seconds.
  private func makeUp(for losses: AsyncStream<EventPump.Losses>) async {
    for await total in losses {
      around.log.warning("events lost so far: \(total)")
      await sweep(adopting: true)
      await around.loop.sleep(for: .seconds(10))
    }
  }

  private func sweep(adopting: Bool) async {
    let reachable = await around.directory.reachable()
    for id in namespaces.keys where id != around.directory.own && reachable[id.inode] == nil {
      if await !around.directory.isWhereSeen(id) { await retire(id) }
    }
    guard adopting else { return }
    let known = Set(namespaces.keys.map(\.inode))
    for (inode, place) in reachable where !known.contains(inode) {
      if let id = await around.directory.identify(place) { _ = namespace(id) }
    }
  }

  /// Lets go of a namespace: it has ended, or cannot be reached any more and may
  /// come back. Without a cookie another one with its number looks the same.
  private func retire(_ id: NamespaceID, forGood: Bool = false) async {
    guard let namespace = namespaces.removeValue(forKey: id) else { return }
    around.log.debug("\(id): gone")
    let writes = await namespace.administratorWrites()
    if !forGood, id.cookie != 0, !writes.isEmpty, remembered.count < Self.mostRemembered {
      remembered[id] = writes
    }
    namespace.finish()
    if remembered[id] == nil { around.gates?.forget(id) }
    await around.journal.forget(id)
    await around.directory.forget(id)
    for tuner in tuners { await tuner.forget(id) }
  }

  // MARK: Hooks that have to be looked at

  private func run(_ poll: Attached) async {
    guard let interval = poll.hook.interval else { return }
    while !Task.isCancelled {
      await around.loop.sleep(for: interval)
      if Task.isCancelled { return }
      await iterate(poll)
    }
  }

  func request(_ hook: Attached, in id: NamespaceID?) async {
    await visit(id ?? around.directory.own, with: hook) { () throws(BPFObject.Failure) in
      try hook.request()
    }
  }

  func iterate(_ hook: Attached) async {
    for id in namespaces.keys { await iterate(hook, in: id) }
  }

  private func iterate(_ hook: Attached, in id: NamespaceID) async {
    await visit(id, with: hook) { () throws(BPFObject.Failure) in try hook.iterate() }
  }

  private func visit(
    _ id: NamespaceID, with hook: Attached,
    _ body: @Sendable () throws(BPFObject.Failure) -> Void
  ) async {
    do {
      let result = try await around.directory.inside(id, body)
      try result.get()
    } catch NamespaceDirectory.Failure.gone {
      return
    } catch {
      around.log.warning("\(hook.hook.name) in \(id): \(error)")
    }
  }
}
