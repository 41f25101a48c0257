import TestSupport
import XCTest

/// The tuners with iterators alone: what stands in for hooks that a kernel may
/// not have. What they look at every few seconds has to last longer than that.
final class HookAlternativeLongTests: IntegrationTestCase {
  private func daemon(_ tuner: String) async throws -> Daemon {
    try await Daemon("--allow", tuner, "--hooks", "iterator")
  }

  func testSocketBufferNamesLockedBuffers() async throws {
    let path = try await Path(delay: 20)
    try await path.setLargeBuffers()
    let daemon = try await daemon("socket-buffer")
    // 32 KiB in a round trip of 40 ms: it takes 15 s.
    let service = try await TCPLoad.responder(
      in: path.right, port: 8211, bytes: 12_000_000, sendBuffer: 16384)
    async let request = TCPLoad.request(
      from: path.left, to: Path.rightAddress.v4, port: 8211, count: 1)
    let line = try await daemon.line(containing: "port 8211: a send buffer locked at", upTo: 25)
    _ = try await request
    try await daemon.stop()
    service.signal(SIGTERM)
    await path.close()
    XCTAssertTrue(line.contains("SO_SNDBUF"), line)
  }

  func testTCPBufferShortensAQueue() async throws {
    let path = try await SlowLink.path()
    let server = try await Iperf.server(in: path.right)
    let daemon = try await daemon("tcp-buffer")
    _ = try await SlowLink.run(path, 22)
    let maximum = try await path.left.maximum(Self.wmem)
    let inode = path.left.inode
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    let change = daemon.changes(of: Self.wmem).first { $0.contains("\(inode)") } ?? ""
    XCTAssertTrue(change.contains("only stands in a queue"), change)
    XCTAssertLessThan(maximum, 1 << 20)
    XCTAssertGreaterThan(maximum, SlowLink.carried)
  }

  func testTCPListenNamesASlowProcess() async throws {
    let namespace = try await TestNamespace("listen")
    try await namespace.set("net.core.somaxconn", "64")
    let daemon = try await daemon("tcp-listen")
    // Its queue is still full when it is looked at.
    let server = try await TCPLoad.server(
      in: namespace, port: 8012, backlog: 1024, pause: 1000, each: 1)
    let burst = try Command(
      [Products.path("tcp-load"), "burst", "127.0.0.1", "8012", "300"], netns: namespace.name)
    let line = try await daemon.line(containing: "accepts too slowly", upTo: 25)
    burst.signal(SIGKILL)
    try await daemon.stop()
    server.signal(SIGTERM)
    await namespace.delete()
    XCTAssertTrue(line.contains("port 8012: pid \(server.pid) "), line)
  }

  /// The look comes every second.
  func testTCPMemoryRaisesItsLimits() async throws {
    let limits = "net.ipv4.tcp_mem"
    let saved = try await SavedSysctls(limits, "net.core.high_order_alloc_disable")
    let namespace = try await TestNamespace("memory")
    try await namespace.set(Self.wmem, "4096 1048576 4194304")
    do {
      let queues = try await FullQueues(in: namespace, count: 16, bytes: 1 << 20)
      // What they hold, and others, is just below the point of pressure.
      let held = try TCPAccount.pages()
      let low = [held - held / 8, held + held / 16, held * 2]
      try await TestNamespace.initial.set(limits, low.map(String.init).joined(separator: " "))
      let daemon = try await daemon("tcp-memory")
      let line = try await daemon.line(containing: "\(limits) ", upTo: 10)
      try await daemon.stop()
      queues.closeSenders()
      _ = await queues.drain()
      XCTAssertTrue(line.contains(" -> ") && line.contains("TCP holds"), line)
    } catch {
      await saved.restore()
      throw error
    }
    await saved.restore()
    await namespace.delete()
  }

  func testTCPStartLearnsFromConnectionsThatLast() async throws {
    let path = try await Path(delay: 5)
    try await path.setLargeBuffers()
    let server = try await Iperf.server(in: path.right)
    let daemon = try await daemon("tcp-start")
    _ = try await Iperf.run(
      from: path.left, to: Path.rightAddress.v4, seconds: 22, options: ["-P", "48"])
    let send = try await initial(Self.wmem, in: path.left)
    let receive = try await initial(Self.rmem, in: path.right)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertGreaterThan(send, 16384)
    XCTAssertGreaterThanOrEqual(receive, 131_072)
    XCTAssertFalse(daemon.changes(of: Self.wmem).isEmpty)
  }
}
