import Foundation
import Kernel
import TestSupport
import XCTest

@testable import Tuners

/// tcp-memory with `tcp_mem` lowered for a few seconds: it is one for the whole
/// machine, so other connections are left enough to live on.
final class TCPMemoryTests: IntegrationTestCase {
  private static let limits = "net.ipv4.tcp_mem"
  private static let orphans = "net.ipv4.tcp_max_orphans"
  private static let noMetrics = "net.ipv4.tcp_no_metrics_save"
  private static let singlePages = "net.core.high_order_alloc_disable"
  /// Pages beside what others on this machine hold: 32 MiB to the point of
  /// pressure.
  private static let little = [6144, 8192, 12288]

  private var saved: SavedSysctls?

  override func setUp() async throws {
    try await super.setUp()
    saved = try await SavedSysctls(Self.limits, Self.orphans, Self.singlePages)
  }

  override func tearDown() async throws { await saved?.restore() }

  /// A namespace whose sockets take a megabyte each.
  private func hungry(_ label: String) async throws -> TestNamespace {
    let namespace = try await TestNamespace(label)
    try await namespace.set(Self.wmem, "4096 1048576 4194304")
    try await namespace.set(Self.noMetrics, "0")
    return namespace
  }

  /// Leaves little to TCP, which is told in the words of sysctl(8).
  private func leaveLittle() async throws -> String {
    // Others may be at work here; what they hold comes and goes.
    try await eventually(upTo: 60, "others to be done") { try TCPAccount.pages() < 32768 }
    let others = try TCPAccount.pages()
    let limits = Self.little.map { "\($0 + others)" }.joined(separator: " ")
    try await TestNamespace.initial.set(Self.limits, limits)
    return limits
  }

  // MARK: Near pressure

  func testConnectionsSurviveASqueeze() async throws {
    var limits = try await leaveLittle()
    let without = try await squeeze()
    let unchanged = try await TestNamespace.initial.sysctl(Self.limits)
    XCTAssertEqual(unchanged, limits)
    XCTAssertGreaterThan(without.resets, 0, "the kernel alone resets connections")

    var daemon = try await Daemon("--allow", "tcp-memory")
    var with = try await squeeze()
    try await daemon.stop()
    // An emulated processor may fill the memory before the daemon has had a turn.
    for _ in 0..<2 where Guest.isHere && with.resets > 0 {
      limits = try await leaveLittle()
      daemon = try await Daemon("--allow", "tcp-memory")
      with = try await squeeze()
      try await daemon.stop()
    }
    XCTAssertEqual(with.resets, 0)
    XCTAssertEqual(with.whole, with.count)
    if !Guest.isHere { XCTAssertGreaterThan(with.sent, without.sent) }
    let change = daemon.changes(of: Self.limits).first ?? ""
    XCTAssertTrue(change.contains("\(limits) -> "), change)
    XCTAssertTrue(change.contains("TCP holds"), change)
  }

  private func squeeze() async throws -> (count: Int, sent: Int, whole: Int, resets: Int) {
    let namespace = try await hungry("squeeze")
    let queues = try await FullQueues(in: namespace, count: 80, bytes: 1 << 20)
    queues.closeSenders()
    let resets = try await TCPAccount.counter("TCPAbortOnMemory", in: namespace)
    let whole = await queues.drain()
    await namespace.delete()
    return (queues.count, queues.sent, whole, resets)
  }

  // MARK: No room left

  func testReliefWhereTheMemoryAllowsNoMore() async throws {
    let namespace = try await hungry("relief")
    let other = try await hungry("other")
    let little = try await leaveLittle()
    try await TestNamespace.initial.set(Self.singlePages, "0")
    // On a machine of 96 MiB the limits are above their bounds already.
    let tuner = try await OneTuner<TCPMemory> {
      TCPMemory(
        learningRate: $0,
        times: TCPMemory.Times(look: .milliseconds(100), calm: .seconds(1)),
        memory: 96 << 20, bufferPages: (96 << 20) / Memory.pageSize)
    }
    do {
      let few = try await FullQueues(in: other, count: 2, bytes: 1 << 20)
      let queues = try await FullQueues(in: namespace, count: 80, bytes: 1 << 20)
      try await eventually(upTo: 20, "smaller buffers: \(tuner.lines.all)") {
        try await namespace.maximum(Self.wmem) < 4_194_304
      }
      let metrics = try await namespace.sysctl(Self.noMetrics)
      let pages = try await TestNamespace.initial.sysctl(Self.singlePages)
      let others = try await other.maximum(Self.wmem)
      let limits = try await TestNamespace.initial.sysctl(Self.limits)
      XCTAssertEqual(metrics, "1")
      XCTAssertEqual(pages, "1")
      XCTAssertEqual(others, 4_194_304, "it holds little")
      XCTAssertEqual(limits, little, "out of bounds")
      queues.closeSenders()
      few.closeSenders()
      _ = await queues.drain()
      _ = await few.drain()
      try await eventually(upTo: 20, "everything back: \(tuner.lines.all)") {
        let buffer = try await namespace.maximum(Self.wmem)
        let metrics = try await namespace.sysctl(Self.noMetrics)
        let pages = try await TestNamespace.initial.sysctl(Self.singlePages)
        return buffer == 4_194_304 && metrics == "0" && pages == "0"
      }
    } catch {
      await tuner.stop()
      throw error
    }
    await tuner.stop()
    await namespace.delete()
    await other.delete()
  }

  // MARK: Orphans

  func testMoreOrphansAreAllowed() async throws {
    try await TestNamespace.initial.set(Self.orphans, "16")
    let without = try await abandon()
    XCTAssertGreaterThan(without.resets, 0, "the kernel alone resets connections")
    try await TestNamespace.initial.set(Self.orphans, "16")
    let daemon = try await Daemon("--allow", "tcp-memory")
    _ = try await abandon()
    _ = try await daemon.line(containing: "tcp_max_orphans 16 -> ")
    let with = try await abandon()
    try await daemon.stop()
    XCTAssertEqual(with.resets, 0)
    XCTAssertEqual(with.whole, with.count)
  }

  /// Closes connections with data that nobody takes, in two lots: the kernel
  /// counts orphans ten times a second, on a processor that is awake
  /// (`tcp_orphan_timer` in `net/ipv4/tcp.c` is deferrable).
  private func abandon() async throws -> (count: Int, resets: Int, whole: Int) {
    // Before Linux 5.16 each processor keeps up to 32 to itself that do not count.
    let more = KernelVersion.running >= KernelVersion(5, 16) ? 30 : 130
    let namespace = try await hungry("orphans")
    let first = try await FullQueues(in: namespace, count: 30, bytes: 1 << 18)
    let second = try await FullQueues(in: namespace, count: more, bytes: 1 << 18)
    first.closeSenders()
    try await eventually("the kernel to count orphans") { try TCPAccount.orphans() > 16 }
    try await keepProcessorsAwake(seconds: Guest.isHere ? 2 : 0.3)
    second.closeSenders()
    let resets = try await TCPAccount.counter("TCPAbortOnMemory", in: namespace)
    async let one = first.drain()
    async let two = second.drain()
    let whole = await one + two
    await namespace.delete()
    return (first.count + second.count, resets, whole)
  }

  /// Lets something run on every processor for a while.
  private func keepProcessorsAwake(seconds: Double) async throws {
    let loops = try (0..<ProcessInfo.processInfo.activeProcessorCount).map {
      try Command(["taskset", "--cpu-list", "\($0)", "sh", "-c", "while :; do :; done"])
    }
    try await Task.sleep(for: .seconds(seconds))
    loops.forEach { $0.signal(SIGKILL) }
  }
}
