public import Kernel
public import Logging

/// A tuner at work: takes its events off its stream, keeps one policy value a
/// namespace, and has the namespace carry out what the policy decides.
public actor Tuner<P: Policy>: AnyTuner {
  private let loop: KernelLoop
  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    loop.asUnownedSerialExecutor()
  }

  private let learningRate: LearningRate
  private let namespaces: any NamespaceProvider
  private let log: Logger
  private var states: [NamespaceID: P] = [:]

  init(
    _ policy: P.Type, loop: KernelLoop, learningRate: LearningRate,
    namespaces: any NamespaceProvider, log: Logger
  ) {
    self.loop = loop
    self.learningRate = learningRate
    self.namespaces = namespaces
    self.log = log
  }

  public func run(_ events: AsyncStream<KernelEvent>) async {
    for await event in events { await handle(event) }
  }

  public func forget(_ namespace: NamespaceID) { states[namespace] = nil }

  private func handle(_ event: KernelEvent) async {
    guard let observation = P.observe(event, freeMemory: Memory.free()) else {
      log.warning("\(P.name): an event of an unknown scenario \(event.scenario), ignoring")
      return
    }
    let decision = states[event.namespace, default: P(learningRate: learningRate)]
      .decide(observation)
    switch decision {
    case .leave(let why):
      log.debug("\(P.name): \(event.namespace): nothing to change: \(why)\(event.foldedNote)")
    case .adjust(let adjustments):
      for adjustment in adjustments {
        // A global tunable is set from the daemon's own namespace, whichever
        // namespace felt its limit.
        let namespace =
          switch adjustment.tunable.scope {
          case .perNamespace: await namespaces.namespace(event.namespace)
          case .global: await namespaces.own()
          }
        let outcome = await namespace.carryOut(adjustment, of: P.name, seenAt: event.time)
        states[event.namespace]?.learn(adjustment, outcome)
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
    loop: KernelLoop, learningRate: LearningRate, namespaces: any NamespaceProvider, log: Logger
  ) -> any AnyTuner {
    Tuner(
      Self.self, loop: loop, learningRate: learningRate, namespaces: namespaces, log: log)
  }
}

/// Who knows the actor of a namespace, and starts one for a new namespace.
public protocol NamespaceProvider: Actor {
  func namespace(_ id: NamespaceID) -> NetworkNamespace
  /// The namespace that the daemon was started in.
  func own() -> NetworkNamespace
  /// An administrator's write to a global tunable: its tuner is disabled in
  /// every namespace, also in those to come.
  func administratorWroteGlobally(_ write: AdministratorWrite)
}
