import BenchLoop
import CShims
import Foundation
import Kernel
import Logging
import Synchronization
import TestSupport
import Tuners

/// From the kernel's time stamp of an event to the sysctl written: through the
/// pump, the tuner's stream, its actor, the namespace's stream and actor; and
/// through a bare C loop of the same priority. In turns, with the same BPF
/// program, a process that writes a watched sysctl being the cause of each event.
func measureLatency() async throws -> [Row] {
  let namespace = try await TestNamespace("latency")
  let fd = open("/run/netns/\(namespace.name ?? "")", O_RDONLY | O_CLOEXEC)
  defer { close(fd) }
  var ours: [Double] = []
  var bare: [Double] = []
  for _ in 0..<10 {
    ours += try await onThread(in: fd) { try oneRound { try roundOfOurs($0) } }
    bare += try await onThread(in: fd) { try oneRound { try roundOfC($0) } }
  }
  await namespace.delete()
  return [
    Row(
      what: "event to sysctl, median, ours / bare C loop", ours: median(ours),
      reference: median(bare), unit: "us", goal: .atMost(2)),
    Row(
      what: "event to sysctl, p99, ours / bare C loop", ours: percentile(0.99, of: ours),
      reference: percentile(0.99, of: bare), unit: "us", goal: .atMost(2)),
  ]
}

private let eventsInARound = 200
private let watched = Tunable("net.ipv4.tcp_moderate_rcvbuf", .scalar, .perNamespace, bounds: 0...1)
private let written = Tunable(
  "net.ipv4.tcp_wmem", .triple, .perNamespace, bounds: 4096...Int64(Int32.max))

/// Runs the body on a thread of its own, inside the namespace.
private func onThread<R: Sendable>(
  in namespace: Int32, _ body: @escaping @Sendable () throws -> R
) async throws -> R {
  try await withCheckedThrowingContinuation { continuation in
    Thread.detachNewThread {
      guard bpftune_netns_enter(namespace) == 0 else {
        return continuation.resume(throwing: Command.Failure("cannot enter the namespace"))
      }
      continuation.resume(with: Result { try body() })
    }
  }
}

private func oneRound(_ body: (Programs) throws -> [Double]) throws -> [Double] {
  let programs = try Programs(cgroup: CgroupRoot())
  try programs.watch(watched)
  let (report, attached) = programs.attach(SysctlWatch.signal, source: 1)
  guard attached != nil, report.refusals.isEmpty else {
    throw Command.Failure("no cgroup/sysctl: \(report.refusals)")
  }
  return try withExtendedLifetime(attached) { try body(programs) }
}

private func startWriter() throws -> pid_t {
  let pid = bench_loop_writer("/proc/sys/" + watched.path, "1", eventsInARound, 3000)
  guard pid > 0 else { throw Command.Failure("cannot fork") }
  return pid
}

private func roundOfC(_ programs: Programs) throws -> [Double] {
  // As the daemon's loop does: it is the code that is compared.
  _ = bpftune_run_soon()
  let writer = try startWriter()
  var nanoseconds = [UInt64](repeating: 0, count: eventsInARound)
  let count = bench_loop_run(
    programs.ringDescriptor, "/proc/sys/" + written.path, "4096 16384 4194304", &nanoseconds,
    eventsInARound)
  waitpid(writer, nil, 0)
  return nanoseconds.prefix(max(0, count)).map { Double($0) / 1000 }
}

/// Sets the maximum of `tcp_wmem` to another value with each event.
private struct Toggle: Policy {
  /// When the event was, in nanoseconds.
  typealias Observation = UInt64

  static let name = "toggle"
  static let tunables = [written]
  static let mirrors: [String: [String: Int64]] = [:]
  static let signals: [Signal] = []
  static let done = Mutex<[Double]>([])

  private var current: Int64 = 4_194_304
  private var eventTime: UInt64 = 0

  init(learningRate: LearningRate) {}

  static func observe(_ event: KernelEvent, freeMemory: Int64) -> UInt64? { event.time }

  mutating func decide(_ observation: UInt64) -> Decision {
    eventTime = observation
    let next: Int64 = current == 4_194_304 ? 4_198_400 : 4_194_304
    defer { current = next }
    return .adjust([Adjustment(written, from: current, to: next, scenario: "", reason: "")])
  }

  mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
    guard case .applied(_, _, let time) = outcome else { return }
    Self.done.withLock { $0.append(Double(time - eventTime) / 1000) }
  }
}

private actor OneNamespace: NamespaceProvider {
  let only: NetworkNamespace
  let loop: KernelLoop
  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  init(_ only: NetworkNamespace, loop: KernelLoop) {
    self.only = only
    self.loop = loop
  }

  func namespace(_ id: NamespaceID) -> NetworkNamespace { only }
  func own() -> NetworkNamespace { only }
  func ids() -> [NamespaceID] { [] }
  func read<R: Sendable>(in id: NamespaceID, _ body: @Sendable () throws -> R) async -> R? {
    try? body()
  }
  func request(_ hook: Attached, in id: NamespaceID?) async {}
  func survey(_ read: @Sendable () throws -> Int64) async -> Int64 { 0 }
  func iterate(_ hook: Attached) {}
  func administratorWroteGlobally(_ write: AdministratorWrite) {}
}

/// Where the daemon keeps its state, on the same disk: writing it belongs to
/// the way of an event.
private func stateDirectory() -> String { "/var/lib/bpftune-bench" }

private func roundOfOurs(_ programs: Programs) throws -> [Double] {
  Toggle.done.withLock { $0.removeAll() }
  try Data("4096 16384 4194304".utf8).write(to: URL(fileURLWithPath: "/proc/sys/" + written.path))
  let loop = try KernelLoop()
  let directory = try NamespaceDirectory(loop: loop)
  let pump = try EventPump(programs: programs, directory: directory, loop: loop)
  let events = pump.events(of: 1)
  let log = Logger(label: "bench") { _ in SwiftLogNoOpLogHandler() }
  let around = NetworkNamespace.Surroundings(
    loop: loop, directory: directory,
    journal: Journal(
      loop: loop, own: directory.own, directory: stateDirectory(), log: log), dryRun: false,
    log: log)
  let namespace = NetworkNamespace(directory.own, around: around)
  let tuner = Toggle.tuner(
    loop: loop, learningRate: .standard, namespaces: OneNamespace(namespace, loop: loop),
    request: nil, log: log)
  let writer = try startWriter()
  Task(executorPreference: loop) {
    await withDiscardingTaskGroup { group in
      group.addTask { await namespace.run() }
      group.addTask { await tuner.run(events) }
      let deadline = ContinuousClock.now + .seconds(20)
      while Toggle.done.withLock({ $0.count }) < eventsInARound, ContinuousClock.now < deadline {
        await loop.sleep(for: .milliseconds(200))
      }
      pump.finish()
      namespace.finish()
    }
    loop.stop()
  }
  loop.run()
  waitpid(writer, nil, 0)
  return Toggle.done.withLock { $0 }
}
