import Kernel
import TestSupport
import Tuners
import XCTest

/// Each way to get a signal, one by one. A hook that this kernel ought to have
/// and that does not attach is a failure.
final class HookTests: IntegrationTestCase {
  // MARK: They attach

  func testTracepointsAttach() throws { try hooksAttach(.tracepoint) }
  func testSockOpsAttach() throws { try hooksAttach(.sockOps) }
  func testCgroupProgramsAttach() throws { try hooksAttach(.cgroup) }
  func testIteratorsAttach() throws { try hooksAttach(.iterator) }

  func testFentryAttaches() throws {
    try skipUnlessAllowed(.fentry)
    try hooksAttach(.fentry)
  }

  func testKprobesAttach() throws {
    try skipUnlessAllowed(.kprobe)
    try hooksAttach(.kprobe)
  }

  func testEveryFamilyIsTested() {
    let families = Set(Self.hooks.map(\.family))
    XCTAssertEqual(
      families, [.tracepoint, .sockOps, .cgroup, .iterator, .fentry, .kprobe, .poll])
  }

  private static var signals: [Signal] {
    [SysctlWatch.signal, DropWatch.signal] + NamespaceWatch.signals
      + tuners.flatMap { $0.signals + [$0.adoption].compactMap { $0 } }
  }
  private static var hooks: [Hook] { signals.flatMap(\.hooks) }

  private func hooksAttach(_ family: Hook.Family) throws {
    let programs = try Programs(cgroup: CgroupRoot())
    let hooks = Self.hooks.filter {
      $0.family == family && !$0.program.isEmpty && KernelVersion.running >= $0.minimumKernel
    }
    continueAfterFailure = true
    for hook in hooks {
      let (report, attached) = programs.attach(Signal(hook.program, [hook]), source: 99)
      XCTAssertNotNil(
        attached, "\(hook.name) on \(KernelVersion.release): \(report.refusals.map(\.reason))")
    }
    XCTAssertFalse(
      hooks.isEmpty, "no hook of the family \(family) is stated for \(KernelVersion.running)")
  }

  /// A stock kernel in a guest allows everything. Elsewhere a kernel may refuse
  /// a whole family; whether it does is found out without bpftune's programs.
  private func skipUnlessAllowed(_ family: Hook.Family) throws {
    guard !Guest.isHere, let why = Guest.refuses(family) else { return }
    throw XCTSkip("\(family) on \(KernelVersion.release): \(why)")
  }

  // MARK: Each alone tells what it is there for

  func testSendLimitByFentry() async throws {
    try skipUnlessAllowed(.fentry)
    try await sendLimit(by: .fentry, "fentry/tcp_sndbuf_expand")
  }

  func testSendLimitByKprobe() async throws {
    try skipUnlessAllowed(.kprobe)
    try await sendLimit(by: .kprobe, "kprobe/tcp_sndbuf_expand")
  }

  func testSendLimitBySockOps() async throws {
    try await sendLimit(by: .sockOps, "sock_ops/RTT_CB")
  }

  func testLongSendLimitByIterator() async throws {
    try await sendLimit(by: .iterator, "iter/tcp every 5 s")
  }

  /// The callback has to be asked for on connections that are there already,
  /// or they have to be looked at.
  func testLongOlderConnectionsBySockOps() async throws {
    let path = try await Path(delay: 10)
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 65536")
    let server = try await Iperf.server(in: path.right)
    async let running = Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 14)
    try await server.line(containing: "connected to")
    let daemon = try await Daemon("--hooks", "sock_ops,iterator")
    _ = try await running
    let maximum = try await path.left.maximum(Self.wmem)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertGreaterThan(maximum, 65536)
  }

  func testLongReceiveLimitByTracepoint() async throws {
    try await receiveLimit(by: .tracepoint, "tp_btf/tcp_rcv_space_adjust")
  }

  func testLongReceiveLimitByIterator() async throws {
    try await receiveLimit(by: .iterator, "iter/tcp every 5 s")
  }

  /// What `check` says that the signal gets with this family alone.
  private func expect(_ hook: String, for signal: String, by family: Hook.Family) async throws {
    let check = try Command([Products.path("bpftune"), "check", "--hooks", family.rawValue])
    try await check.wait()
    let line = check.lines.first { $0.contains(signal) } ?? ""
    XCTAssertTrue(line.hasSuffix(" \(hook)"), check.output)
  }

  /// A look at all connections comes every 5 seconds; it may need two.
  private func seconds(_ family: Hook.Family) -> Double { family == .iterator ? 14 : 3 }

  private func sendLimit(by family: Hook.Family, _ hook: String) async throws {
    try await expect(hook, for: "TCP send buffer limit", by: family)
    let path = try await Path(delay: 10)
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 65536")
    let server = try await Iperf.server(in: path.right)
    let daemon = try await Daemon("--hooks", family.rawValue)
    _ = try await Iperf.run(
      from: path.left, to: Path.rightAddress.v4, seconds: seconds(family))
    let maximum = try await path.left.maximum(Self.wmem)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertGreaterThan(maximum, 65536)
  }

  private func receiveLimit(by family: Hook.Family, _ hook: String) async throws {
    try await expect(hook, for: "TCP receive buffer limit", by: family)
    let path = try await Path(delay: 10)
    try await path.setLargeBuffers()
    try await path.right.set(Self.rmem, "4096 65536 65536")
    let server = try await Iperf.server(in: path.right)
    let daemon = try await Daemon("--hooks", family.rawValue)
    _ = try await Iperf.run(
      from: path.left, to: Path.rightAddress.v4, seconds: seconds(family))
    let maximum = try await path.right.maximum(Self.rmem)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertGreaterThan(maximum, 65536)
  }

  func testNamespacesByTracepoint() async throws {
    try await namespaces(by: .tracepoint, seenWithin: 2, goneWithin: nil)
  }

  func testNamespacesByFentry() async throws {
    try skipUnlessAllowed(.fentry)
    try await namespaces(by: .fentry, seenWithin: 2, goneWithin: 3)
  }

  func testNamespacesByKprobe() async throws {
    try skipUnlessAllowed(.kprobe)
    try await namespaces(by: .kprobe, seenWithin: 2, goneWithin: 3)
  }

  func testLongNamespacesByPoll() async throws {
    try await namespaces(by: .poll, seenWithin: 12, goneWithin: 25)
  }

  private func namespaces(
    by family: Hook.Family, seenWithin: Double, goneWithin: Double?
  ) async throws {
    let daemon = try await Daemon("--hooks", family.rawValue)
    let namespace = try await TestNamespace("hooks")
    let inode = namespace.inode
    _ = try await daemon.line(containing: "netns \(inode): watching it", upTo: seenWithin)
    await namespace.delete()
    if let goneWithin {
      _ = try await daemon.line(containing: "netns \(inode): gone", upTo: goneWithin)
    }
    try await daemon.stop()
  }

  func testSysctlWritesByCgroup() async throws {
    let namespace = try await TestNamespace("hooks")
    let daemon = try await Daemon("--hooks", "cgroup")
    try await namespace.set(Self.wmem, "4096 16384 131072")
    _ = try await daemon.line(containing: "tcp-buffer is disabled")
    try await daemon.stop()
    await namespace.delete()
  }
}
