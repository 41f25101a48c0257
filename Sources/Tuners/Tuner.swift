public import Kernel
public import Logging
public import State

/// A tuner at work: takes its events off its stream, keeps one policy value a
/// namespace or one for the machine, and has the namespace carry out what the
/// policy decides.
public actor Tuner<P: Policy>: AnyTuner {
  private let loop: KernelLoop
  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    loop.asUnownedSerialExecutor()
  }

  private let learningRate: LearningRate
  private let namespaces: any NamespaceProvider
  private let log: Logger
  /// By namespace; what is about the machine stands under `nil`.
  private var states: [NamespaceID?: P] = [:]
  /// When the next `recheck` of a state is due. One that was due later and has
  /// been overtaken ends without doing anything.
  private var due: [NamespaceID?: ContinuousClock.Instant] = [:]
  /// How long the last request took.
  private var requestTook = Duration.zero
  private let request: Attached?
  private let table: BPFMap?
  private var written: [UInt32] = []
  /// How often it looks where no hook tells; nil where one does.
  private let interval: Duration?
  private let makePolicy: @Sendable (LearningRate) -> P
  private var folder = LogFolder()

  init(
    _ policy: P.Type, loop: KernelLoop, learningRate: LearningRate,
    namespaces: any NamespaceProvider, request: Attached?, lookingEvery interval: Duration? = nil,
    table: BPFMap? = nil, log: Logger,
    makePolicy: @escaping @Sendable (LearningRate) -> P = { P(learningRate: $0) }
  ) {
    self.loop = loop
    self.request = request
    self.table = table
    self.interval = interval
    self.makePolicy = makePolicy
    self.learningRate = learningRate
    self.namespaces = namespaces
    self.log = log
  }

  public func run(_ events: AsyncStream<KernelEvent>) async {
    await withDiscardingTaskGroup { group in
      // What has been recalled may have to come down again.
      for key in states.keys { arrange(key, &group) }
      if P.looks {
        await look(nil)
        arrange(nil, &group)
      }
      if let interval { group.addTask { await self.poll(every: interval) } }
      for await event in events {
        let key = P.scope == .global ? nil : event.namespace
        guard let seen = P.observe(event, freeMemory: Memory.free()) else {
          log.warning("\(P.name): an event of an unknown scenario \(event.scenario), ignoring")
          continue
        }
        guard let observation = await complete(seen, event.namespace) else { continue }
        await handle(
          observation, key, from: event.namespace, at: event.time, note: event.foldedNote)
        arrange(key, &group)
      }
      group.cancelAll()
    }
  }

  public func forget(_ namespace: NamespaceID) {
    states[namespace] = nil
    states[nil]?.forget(namespace)
  }

  public func findings() -> [String] {
    states.values.flatMap(\.findings).sorted().map { "\(P.name): \($0)" }
  }

  public func recall(_ holding: Holding) {
    guard holding.tuner == P.name else { return }
    let key = P.scope == .global ? nil : holding.namespace
    states[key, default: makePolicy(learningRate)].recall(holding, at: KernelEvent.now())
  }

  // MARK: Looking

  /// Sees to it that things are looked at when the policy wants it.
  private func arrange(_ key: NamespaceID?, _ group: inout DiscardingTaskGroup) {
    guard P.looks || request != nil, let time = wish(key) else { return }
    group.addTask { await self.recheck(key, at: time) }
  }

  /// When the policy wants to look; nil when it does not, or something is under
  /// way that comes no later.
  private func wish(_ key: NamespaceID?) -> ContinuousClock.Instant? {
    guard let wait = states[key]?.recheck else { return nil }
    // Where there are many namespaces a request is not cheap: it gets a twentieth
    // of the time.
    let time = ContinuousClock.now + max(wait, requestTook * 20)
    if let planned = due[key], planned <= time { return nil }
    due[key] = time
    return time
  }

  private func recheck(_ key: NamespaceID?, at first: ContinuousClock.Instant) async {
    var time = first
    while true {
      await loop.sleep(for: max(.zero, time - .now))
      guard !Task.isCancelled, due[key] == time else { return }
      due[key] = nil
      guard states[key] != nil else { return }
      // What a request has to tell comes as an event.
      if P.looks { await look(key) } else { await ask(key) }
      guard let next = wish(key) else { return }
      time = next
    }
  }

  /// Has the BPF programs know what the policy says.
  private func tell(_ table: BPFMap) {
    guard let values = states[nil]?.table, values != written else { return }
    written = values
    do {
      try table.set(to: values)
    } catch {
      log.error("\(P.name): \(error)")
    }
  }

  /// Has the kernel report.
  private func ask(_ key: NamespaceID?) async {
    guard let request else { return }
    let start = ContinuousClock.now
    if key == nil, case .iterator = request.hook.attachment {
      await namespaces.iterate(request)
    } else {
      await namespaces.request(request, in: key)
    }
    requestTook = ContinuousClock.now - start
  }

  private func look(_ key: NamespaceID?) async {
    do {
      let own = await namespaces.own().id
      try await handle(P.look(), key, from: own, at: KernelEvent.now(), note: "")
    } catch {
      if let repeats = folder.admit("look", most: 1) {
        log.warning("\(P.name): cannot look: \(error)\(repeats)")
      }
    }
  }

  private func poll(every interval: Duration) async {
    await withDiscardingTaskGroup { group in
      var wait = interval
      while !Task.isCancelled {
        await loop.sleep(for: wait)
        if Task.isCancelled { return }
        if P.readsInside {
          // Where there are many namespaces: no more than a hundredth of the time.
          wait = await max(interval, pollInside(&group) * 100)
        } else {
          await look(nil)
          while let time = wish(nil) { await recheck(nil, at: time) }
        }
      }
    }
  }

  /// Looks at every namespace; how long it took.
  private func pollInside(_ group: inout DiscardingTaskGroup) async -> Duration {
    let ids = await namespaces.ids()
    var took = Duration.zero
    var start = ContinuousClock.now
    for id in ids {
      guard !Task.isCancelled, let seen = P.poll(id) else { break }
      if let observation = await complete(seen, id) {
        let key = P.scope == .global ? nil : id
        await handle(observation, key, from: id, at: KernelEvent.now(), note: "")
        arrange(key, &group)
      }
      let stretch = ContinuousClock.now - start
      guard stretch > .milliseconds(1) else { continue }
      // Events and signals wait for the thread to have nothing else to do.
      took += stretch
      await loop.sleep(for: .milliseconds(1))
      start = .now
    }
    return took + (ContinuousClock.now - start)
  }

  // MARK: Deciding

  /// With what has to be read; nil when the namespace has gone.
  private func complete(
    _ seen: P.Observation, _ namespace: NamespaceID
  ) async -> P.Observation? {
    guard P.readsInside else {
      do {
        var seen = seen
        try P.complete(&seen)
        return seen
      } catch {
        if let repeats = folder.admit("complete", most: 1) {
          log.warning("\(P.name): \(error)\(repeats)")
        }
        return nil
      }
    }
    return await namespaces.read(in: namespace) {
      var seen = seen
      try P.complete(&seen)
      return seen
    }
  }

  private func handle(
    _ observation: P.Observation, _ key: NamespaceID?, from origin: NamespaceID, at time: UInt64,
    note: String
  ) async {
    var decision = states[key, default: makePolicy(learningRate)].decide(observation)
    if decision == .survey {
      let sum = await namespaces.survey { try P.survey(observation) }
      states[key]?.learn(surveyed: sum, for: observation)
      decision = states[key]?.decide(observation) ?? decision
    }
    switch decision {
    case .survey:
      log.error("\(P.name): a survey does not satisfy the policy, ignoring the event")
    case .hold(let why, let subject):
      if let repeats = folder.admit(subject, most: 1) { log.notice("\(P.name): \(why)\(repeats)") }
    case .note(let text, let subject):
      let namespace = await namespaces.namespace(origin)
      namespace.note(text + note, about: "\(P.name) \(subject)")
    case .leave(let why):
      log.debug("\(P.name): \(origin): nothing to change: \(why)\(note)")
    case .adjust(let adjustments):
      for adjustment in adjustments {
        // A global tunable is set from the daemon's own namespace, whichever
        // namespace felt its limit.
        let namespace =
          switch adjustment.tunable.scope {
          case .perNamespace:
            await namespaces.namespace(adjustment.namespace ?? origin)
          case .global: await namespaces.own()
          }
        let outcome = await namespace.carryOut(adjustment, of: P.name, seenAt: time)
        states[key]?.learn(adjustment, outcome)
      }
    }
    if key == nil, let table { tell(table) }
  }
}

extension KernelEvent {
  var foldedNote: String { folded == 0 ? "" : " (\(folded) repeats folded)" }
}

/// A tuner, whatever its policy.
public protocol AnyTuner: Actor {
  func run(_ events: AsyncStream<KernelEvent>) async
  /// What a daemon before this one had changed.
  func recall(_ holding: Holding)
  /// There is a new namespace.
  nonisolated func appeared(_ namespace: NamespaceID)
  /// The namespace is gone: lets go of what was known of it.
  func forget(_ namespace: NamespaceID)
  /// What an administrator should know of in the end, a line each.
  func findings() -> [String]
}

extension AnyTuner {
  public nonisolated func appeared(_ namespace: NamespaceID) {}
}

extension Policy {
  /// A tuner with this policy.
  public static func tuner(
    loop: KernelLoop, learningRate: LearningRate, namespaces: any NamespaceProvider,
    request: Attached? = nil, lookingEvery interval: Duration? = nil, table: BPFMap? = nil,
    log: Logger
  ) -> any AnyTuner {
    Tuner(
      Self.self, loop: loop, learningRate: learningRate, namespaces: namespaces,
      request: request, lookingEvery: interval, table: table, log: log)
  }
}

/// Who knows the actor of a namespace, and starts one for a new namespace.
public protocol NamespaceProvider: Actor {
  func namespace(_ id: NamespaceID) -> NetworkNamespace
  /// The namespace that the daemon was started in.
  func own() -> NetworkNamespace
  /// All that are known.
  func ids() async -> [NamespaceID]
  /// Reads something inside one namespace; nil where that cannot be done.
  func read<R: Sendable>(
    in id: NamespaceID, _ body: @Sendable () throws -> R
  ) async -> R?
  /// Reads a number inside each namespace; their sum. Leaves out those that
  /// have gone.
  func survey(_ read: @Sendable () throws -> Int64) async -> Int64
  /// Has the kernel report how things stand, inside a namespace or, for nil, in
  /// the daemon's own.
  func request(_ hook: Attached, in id: NamespaceID?) async
  /// Runs an iterator in each namespace.
  func iterate(_ hook: Attached) async
  /// An administrator's write to a global tunable: its tuner is disabled in
  /// every namespace, also in those to come.
  func administratorWroteGlobally(_ write: AdministratorWrite)
}
