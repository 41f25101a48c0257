public import Kernel
public import Logging
public import State

/// A tuner from outside at work: has its module decide in its own process, looks
/// through what that answers, and has the namespace carry it out as for any other
/// tuner.
public actor ModuleTuner: AnyTuner {
  private let loop: KernelLoop
  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    loop.asUnownedSerialExecutor()
  }

  public nonisolated let module: ModuleDescription
  private let host: ModuleHost
  private let namespaces: any NamespaceProvider
  private let log: Logger
  private var folder = LogFolder()
  /// By namespace; what is about the machine stands under nil.
  private var strategies: [NamespaceID?: Strategies] = [:]
  private let rules: Strategies.Rules

  private enum News: Sendable {
    case appeared(NamespaceID)
    case gone(NamespaceID)
    case recalled(NamespaceID, Int, Int64, Int64)
  }
  private let news: AsyncStream<News>
  private nonisolated let tell: AsyncStream<News>.Continuation

  public init(
    _ module: ModuleDescription, host: ModuleHost, loop: KernelLoop,
    namespaces: any NamespaceProvider, rules: Strategies.Rules = Strategies.Rules(), log: Logger
  ) {
    self.module = module
    self.host = host
    self.loop = loop
    self.namespaces = namespaces
    self.rules = rules
    self.log = log
    // A storm of namespaces is not kept for a module that is slower than it.
    (news, tell) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1024))
  }

  public nonisolated var description: TunerDescription {
    TunerDescription(name: module.name, tunables: module.tunables)
  }

  /// Serves until the stream ends, the task is cancelled, or the module fails.
  public func run(_ events: AsyncStream<KernelEvent>) async {
    await withDiscardingTaskGroup { group in
      group.addTask { await self.follow() }
      for await event in events {
        do {
          try await handle(event)
        } catch {
          break
        }
      }
      group.cancelAll()
    }
  }

  // MARK: What it hears

  public nonisolated func appeared(_ namespace: NamespaceID) {
    if module.hearsNamespaces { tell.yield(.appeared(namespace)) }
  }

  public func forget(_ namespace: NamespaceID) {
    strategies[namespace] = nil
    if module.hearsNamespaces { tell.yield(.gone(namespace)) }
  }

  public func recall(_ holding: Holding) {
    guard holding.tuner == module.name,
      let index = module.tunables.firstIndex(of: holding.tunable)
    else { return }
    tell.yield(
      .recalled(
        holding.namespace, index, holding.original.maximum ?? 0, holding.written.maximum ?? 0))
  }

  public func findings() -> [String] {
    strategies.sorted { ($0.key?.inode ?? 0) < ($1.key?.inode ?? 0) }.compactMap { key, value in
      guard value.isSettled else { return nil }
      let place = key.map { "\($0)" } ?? "the machine"
      return "\(module.name): \(module.strategies[value.current]) is best for \(place)"
    }
  }

  private func follow() async {
    for await piece in news {
      do throws(ModuleHost.Failure) {
        switch piece {
        case .appeared(let id): _ = try await host.call(.namespace(id, appeared: true))
        case .gone(let id): _ = try await host.call(.namespace(id, appeared: false))
        case .recalled(let id, let tunable, let old, let new):
          _ = try await host.call(.outcome(.recalled, tunable: tunable, old: old, new: new, id))
        }
      } catch {
        return
      }
    }
  }

  // MARK: Deciding

  private func handle(_ event: KernelEvent) async throws(ModuleHost.Failure) {
    guard Int(event.scenario) < module.scenarios.count else {
      throw await host.fail(
        "returns nonsense: its program reports the unknown scenario \(event.scenario)")
    }
    let key = module.scope == .global ? nil : event.namespace
    let strategy = try await strategy(of: key, event)
    let values = await read(event.namespace)
    let answers = try await host.call(
      .event(event, values: values, freeMemory: Memory.free(), strategy: strategy))
    var adjustments: [(Int, Adjustment)] = []
    for answer in answers {
      switch answer {
      case .leave(let why):
        log.debug(
          "\(module.name): \(event.namespace): nothing to change: \(why)\(event.foldedNote)")
      case .score: throw await host.fail("returns nonsense: a score nobody asked for")
      case .adjust(let said):
        do throws(ModuleDescription.Nonsense) {
          adjustments.append((said.tunable, try module.adjustment(said)))
        } catch {
          throw await host.fail("returns nonsense: \(error)")
        }
      }
    }
    for (index, adjustment) in adjustments {
      let namespace =
        switch adjustment.tunable.scope {
        case .perNamespace: await namespaces.namespace(event.namespace)
        case .global: await namespaces.own()
        }
      let outcome = await namespace.carryOut(adjustment, of: module.name, seenAt: event.time)
      _ = try await host.call(.outcome(outcome, of: adjustment, tunable: index, namespace.id))
    }
  }

  /// What its tunables hold, where the event came from.
  private func read(_ id: NamespaceID) async -> [SysctlValue?] {
    let tunables = module.tunables
    let here = await namespaces.read(in: id) {
      tunables.map { $0.scope == .perNamespace ? try? Sysctl.read($0) : nil }
    }
    return tunables.enumerated().map { index, tunable in
      tunable.scope == .global ? try? Sysctl.read(tunable) : here?[index]
    }
  }

  /// By which strategy an event is to be answered; evaluates the one in force when
  /// its time is over.
  private func strategy(
    of key: NamespaceID?, _ event: KernelEvent
  ) async throws(ModuleHost.Failure) -> Int {
    guard module.strategies.count > 1 else { return 0 }
    var all = strategies[key] ?? Strategies(count: module.strategies.count, rules: rules)
    let due = all.isDue(at: event.time)
    strategies[key] = all
    guard due else { return all.current }
    let place = key ?? NamespaceID(cookie: 0, inode: 0)
    let answers = try await host.call(.evaluate(strategy: all.current, place))
    guard case .score(let score)? = answers.last else {
      throw await host.fail("returns nonsense: no score")
    }
    let before = all.current
    all.learn(score: score, at: event.time)
    strategies[key] = all
    log.info(
      "\(module.name): \(module.strategies[before]) scores \(score)\(key.map { " in \($0)" } ?? ""); \(module.strategies[all.current]) \(all.isSettled ? "is best" : "is tried")"
    )
    return all.current
  }
}

extension ModuleDescription {
  /// What was said, as an adjustment of the daemon's.
  func adjustment(_ said: ModuleHost.Adjustment) throws(Nonsense) -> Adjustment {
    guard tunables.indices.contains(said.tunable) else {
      throw Nonsense("an adjustment of tunable \(said.tunable), of \(tunables.count)")
    }
    let tunable = tunables[said.tunable]
    guard scenarios.indices.contains(said.scenario) else {
      throw Nonsense("an adjustment for scenario \(said.scenario), of \(scenarios.count)")
    }
    guard tunable.bounds.contains(said.wanted) else {
      throw Nonsense(
        "\(tunable.name) to \(said.wanted), where its own bounds are"
          + " \(tunable.bounds.lowerBound) to \(tunable.bounds.upperBound)")
    }
    return Adjustment(
      tunable, from: said.assumed, to: said.wanted, scenario: scenarios[said.scenario],
      reason: said.reason)
  }
}

extension ModuleHost.Call {
  fileprivate static func outcome(
    _ outcome: Outcome, of adjustment: Adjustment, tunable: Int, _ id: NamespaceID
  ) -> ModuleHost.Call {
    switch outcome {
    case .applied(let old, let new, _):
      .outcome(.applied, tunable: tunable, old: old.maximum ?? 0, new: new.maximum ?? 0, id)
    case .advised(let old, let new):
      .outcome(.advised, tunable: tunable, old: old.maximum ?? 0, new: new.maximum ?? 0, id)
    case .refused(.stale(let current)):
      .outcome(
        .stale, tunable: tunable, old: current.maximum ?? 0, new: current.maximum ?? 0, id)
    case .refused:
      .outcome(
        .refused, tunable: tunable, old: adjustment.assumed.number,
        new: adjustment.assumed.number, id)
    }
  }
}
