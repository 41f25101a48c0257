public import Kernel
public import Logging

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
  /// When the next `recheck` of a state is due.
  private var due: [NamespaceID?: ContinuousClock.Instant] = [:]
  /// How long the last request took.
  private var requestTook = Duration.zero
  private let request: Attached?
  private let makePolicy: @Sendable (LearningRate) -> P
  private var folder = LogFolder()

  init(
    _ policy: P.Type, loop: KernelLoop, learningRate: LearningRate,
    namespaces: any NamespaceProvider, request: Attached?, log: Logger,
    makePolicy: @escaping @Sendable (LearningRate) -> P = { P(learningRate: $0) }
  ) {
    self.loop = loop
    self.request = request
    self.makePolicy = makePolicy
    self.learningRate = learningRate
    self.namespaces = namespaces
    self.log = log
  }

  public func run(_ events: AsyncStream<KernelEvent>) async {
    await withDiscardingTaskGroup { group in
      for await event in events {
        let key = P.scope == .global ? nil : event.namespace
        await handle(event, key)
        guard request != nil, let wait = states[key]?.recheck else { continue }
        // Where there are many namespaces a request is not cheap: it gets a
        // twentieth of the time.
        let next = ContinuousClock.now + max(wait, requestTook * 20)
        if let planned = due[key], planned <= next { continue }
        due[key] = next
        group.addTask { await self.recheck(key, at: next) }
      }
      group.cancelAll()
    }
  }

  public func forget(_ namespace: NamespaceID) { states[namespace] = nil }

  /// Has the kernel report, for a policy that wants to know how things stand.
  private func recheck(_ key: NamespaceID?, at time: ContinuousClock.Instant) async {
    await loop.sleep(for: ContinuousClock.now.duration(to: time))
    // An earlier one may have come in between.
    guard !Task.isCancelled, due[key] == time else { return }
    due[key] = nil
    guard let request, states[key] != nil else { return }
    let start = ContinuousClock.now
    if case .iterator = request.hook.attachment {
      await namespaces.iterate(request)
    } else {
      do {
        try request.request()
      } catch {
        log.error("\(P.name): \(error)")
      }
    }
    requestTook = ContinuousClock.now - start
  }

  private func handle(_ event: KernelEvent, _ key: NamespaceID?) async {
    guard let seen = P.observe(event, freeMemory: Memory.free()) else {
      log.warning("\(P.name): an event of an unknown scenario \(event.scenario), ignoring")
      return
    }
    let observation = P.complete(seen)
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
    case .leave(let why):
      log.debug("\(P.name): \(event.namespace): nothing to change: \(why)\(event.foldedNote)")
    case .adjust(let adjustments):
      for adjustment in adjustments {
        // A global tunable is set from the daemon's own namespace, whichever
        // namespace felt its limit.
        let namespace =
          switch adjustment.tunable.scope {
          case .perNamespace:
            await namespaces.namespace(adjustment.namespace ?? event.namespace)
          case .global: await namespaces.own()
          }
        let outcome = await namespace.carryOut(adjustment, of: P.name, seenAt: event.time)
        states[key]?.learn(adjustment, outcome)
      }
    }
  }
}

extension KernelEvent {
  var foldedNote: String { folded == 0 ? "" : " (\(folded) repeats folded)" }
}

/// A tuner, whatever its policy.
public protocol AnyTuner: Actor {
  func run(_ events: AsyncStream<KernelEvent>) async
  /// The namespace is gone: lets go of what was known of it.
  func forget(_ namespace: NamespaceID)
}

extension Policy {
  /// A tuner with this policy.
  public static func tuner(
    loop: KernelLoop, learningRate: LearningRate, namespaces: any NamespaceProvider,
    request: Attached? = nil, log: Logger
  ) -> any AnyTuner {
    Tuner(
      Self.self, loop: loop, learningRate: learningRate, namespaces: namespaces,
      request: request, log: log)
  }
}

/// Who knows the actor of a namespace, and starts one for a new namespace.
public protocol NamespaceProvider: Actor {
  func namespace(_ id: NamespaceID) -> NetworkNamespace
  /// The namespace that the daemon was started in.
  func own() -> NetworkNamespace
  /// Reads a number inside each namespace; their sum. Leaves out those that
  /// have gone.
  func survey(_ read: @Sendable () throws -> Int64) async -> Int64
  /// Runs an iterator in each namespace.
  func iterate(_ hook: Attached) async
  /// An administrator's write to a global tunable: its tuner is disabled in
  /// every namespace, also in those to come.
  func administratorWroteGlobally(_ write: AdministratorWrite)
}
