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
  /// Pages; 32 MiB to the point of pressure.
  private static let little = "6144 8192 12288"

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

  // MARK: Near pressure

  func testConnectionsSurviveASqueeze() async throws {
    let without = try await squeeze(with: nil)
    let unchanged = try await TestNamespace.initial.sysctl(Self.limits)
    XCTAssertEqual(unchanged, Self.little)
    XCTAssertGreaterThan(without.resets, 0, "the kernel alone resets connections")

    let daemon = try await Daemon("--allow", "tcp-memory")
    let with = try await squeeze(with: daemon)
    try await daemon.stop()
    XCTAssertEqual(with.resets, 0)
    XCTAssertEqual(with.whole, with.count)
    XCTAssertGreaterThan(with.sent, without.sent)
    let change = daemon.changes(of: Self.limits).first ?? ""
    XCTAssertTrue(change.contains("6144 8192 12288 -> "), change)
    XCTAssertTrue(change.contains("pressure begins at 8192"), change)
  }

  private func squeeze(
    with daemon: Daemon?
  ) async throws -> (count: Int, sent: Int, whole: Int, resets: Int) {
    let namespace = try await hungry("squeeze")
    // Before the daemon is there it is no administrator's write to it.
    if daemon == nil { try await TestNamespace.initial.set(Self.limits, Self.little) }
    let queues = try await FullQueues(in: namespace, count: 80, bytes: 1 << 20)
    queues.closeSenders()
    let resets = try await TCPAccount.counter("TCPAbortOnMemory", in: namespace)
    let whole = await queues.drain()
    await namespace.delete()
    return (queues.count, queues.sent, whole, resets)
  }
}
