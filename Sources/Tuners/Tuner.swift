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
  /// States whose `recheck` is running.
  private var waiting: Set<NamespaceID?> = []
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
        guard let wait = states[key]?.recheck, request != nil, waiting.insert(key).inserted
        else { continue }
        group.addTask { await self.recheck(key, after: wait) }
      }
      group.cancelAll()
    }
  }

  public func forget(_ namespace: NamespaceID) { states[namespace] = nil }

  public func findings() -> [String] {
    states.values.flatMap(\.findings).sorted().map { "\(P.name): \($0)" }
  }

  /// Has the kernel report, for a policy that wants to know how things stand.
  private func recheck(_ key: NamespaceID?, after wait: Duration) async {
    await loop.sleep(for: wait)
    waiting.remove(key)
    guard !Task.isCancelled, let request, states[key] != nil else { return }
    await namespaces.request(request, in: key)
  }

  private func handle(_ event: KernelEvent, _ key: NamespaceID?) async {
    guard let observation = P.observe(event, freeMemory: Memory.free()) else {
      log.warning("\(P.name): an event of an unknown scenario \(event.scenario), ignoring")
      return
    }
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
  /// What an administrator should know of in the end, a line each.
  func findings() -> [String]
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
  /// Has the kernel report how things stand, inside a namespace or, for nil, in
  /// the daemon's own.
  func request(_ hook: Attached, in id: NamespaceID?) async
  /// An administrator's write to a global tunable: its tuner is disabled in
  /// every namespace, also in those to come.
  func administratorWroteGlobally(_ write: AdministratorWrite)
}
