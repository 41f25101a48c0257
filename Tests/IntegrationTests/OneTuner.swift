import Foundation
import Kernel
import Logging
import Synchronization
import TestSupport

@testable import Tuners

/// A tuner at work in this process, with the kernel's own events and a policy
/// of the test's making: for what would take minutes with the daemon's times.
final class OneTuner<P: Policy>: Sendable {
  private static var source: UInt16 { 16 }

  private let place: DaemonsPlace
  private let loop: KernelLoop
  private let provider: Namespaces
  private let pump: EventPump
  private let hooks: [Attached]
  private let work: Task<Void, Never>
  let lines: Lines

  init(
    allowing risks: Set<Risk> = [], surveyed: Int64 = 1 << 20, polling interval: Duration? = nil,
    _ makePolicy: @escaping @Sendable (LearningRate) -> P
  ) async throws {
    place = try await DaemonsPlace()
    let loop = try KernelLoop()
    let directory = try NamespaceDirectory(loop: loop)
    let programs = try Programs(cgroup: CgroupRoot(path: nil))
    let pump = try EventPump(programs: programs, directory: directory, loop: loop)
    let events = pump.events(of: Self.source)
    let lines = Lines()
    var log = Logger(label: "test") { _ in lines }
    log.logLevel = .debug
    // As if this kernel needed all of them.
    hooks = P.signals.compactMap {
      programs.attach(Signal($0.name, $0.hooks), source: Self.source).1
    }
    let polls = hooks.compactMap { attached -> Duration? in
      if case .poll(let every) = attached.hook.attachment { every } else { nil }
    }
    let request = P.request.flatMap { programs.attach($0, source: Self.source).1 }
    let provider = Namespaces(
      NetworkNamespace.Surroundings(
        loop: loop, directory: directory,
        journal: Journal(loop: loop, own: directory.own, log: log), dryRun: false,
        allowedRisks: risks, log: log), surveyed: surveyed)
    let tuner = Tuner(
      P.self, loop: loop, learningRate: .standard, namespaces: provider, request: request,
      lookingEvery: interval ?? polls.first, log: log, makePolicy: makePolicy)
    work = Task(executorPreference: loop) { await tuner.run(events) }
    Thread.detachNewThread { loop.run() }
    self.loop = loop
    self.provider = provider
    self.pump = pump
    self.lines = lines
  }

  /// Ends it, and puts back what it changed.
  func stop() async {
    work.cancel()
    await work.value
    await provider.stop()
    loop.stop()
  }

  /// What it logs.
  final class Lines: LogHandler, Sendable {
    private let lines = Mutex([String]())
    var all: [String] { lines.withLock { $0 } }

    func log(event: LogEvent) { lines.withLock { $0.append("\(event.message)") } }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
      get { nil }
      set {}
    }
    var metadata: Logger.Metadata {
      get { [:] }
      set {}
    }
    var logLevel: Logger.Level {
      get { .debug }
      set {}
    }
  }
}

/// Namespaces by the events that come from them.
private actor Namespaces: NamespaceProvider {
  private let around: NetworkNamespace.Surroundings
  nonisolated var unownedExecutor: UnownedSerialExecutor {
    around.loop.asUnownedSerialExecutor()
  }
  private var all: [NamespaceID: (namespace: NetworkNamespace, work: Task<Void, Never>)] = [:]

  /// What a survey finds.
  private let surveyed: Int64

  init(_ around: NetworkNamespace.Surroundings, surveyed: Int64) {
    self.around = around
    self.surveyed = surveyed
  }

  func namespace(_ id: NamespaceID) -> NetworkNamespace {
    if let known = all[id] { return known.namespace }
    let namespace = NetworkNamespace(id, around: around)
    all[id] = (namespace, Task(executorPreference: around.loop) { await namespace.run() })
    return namespace
  }

  func own() -> NetworkNamespace { namespace(around.directory.own) }
  func ids() async -> [NamespaceID] {
    var ids: [NamespaceID] = []
    for place in await around.directory.reachable().values {
      if let id = await around.directory.identify(place) { ids.append(id) }
    }
    return ids
  }
  func iterate(_ hook: Attached) async {
    for place in await around.directory.reachable().values {
      guard let id = await around.directory.identify(place) else { continue }
      _ = try? await around.directory.inside(id) { () throws(BPFObject.Failure) in
        try hook.iterate()
      }
    }
  }
  func administratorWroteGlobally(_ write: AdministratorWrite) {}
  func read<R: Sendable>(
    in id: NamespaceID, _ body: @Sendable () throws -> R
  ) async -> R? {
    try? await around.directory.inside(id, body).get()
  }
  func survey(_ read: @Sendable () throws -> Int64) async -> Int64 { surveyed }
  func request(_ hook: Attached, in id: NamespaceID?) async {
    _ = try? await around.directory.inside(id ?? around.directory.own) { try hook.request() }
  }

  func stop() async {
    for (namespace, work) in all.values {
      _ = await namespace.rollBack()
      namespace.finish()
      await work.value
    }
  }
}
