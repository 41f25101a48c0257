import TestSupport
import XCTest

/// tcp-buffer with real connections over a path of 20 ms,
/// in a guest 100 ms.
final class TCPBufferTests: IntegrationTestCase {
  private let small = 65536

  // MARK: Send side

  func testSendBufferIPv4() async throws { try await sendSide(Path.rightAddress.v4) }
  func testLongSendBufferIPv6() async throws { try await sendSide(Path.rightAddress.v6) }

  private func sendSide(_ address: String) async throws {
    let path = try await Path(delay: Path.ordinaryDelay)
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 \(small)")
    let server = try await Iperf.server(in: path.right)
    let without = try await Iperf.run(from: path.left, to: address, seconds: 2)
    let unchanged = try await path.left.maximum(Self.wmem)
    XCTAssertEqual(unchanged, small)

    let daemon = try await Daemon()
    let with = try await Iperf.run(from: path.left, to: address, seconds: 3)
    let maximum = try await path.left.maximum(Self.wmem)
    let status = try await daemon.stop()
    XCTAssertEqual(status, 0)
    server.signal(SIGTERM)
    await path.close()

    XCTAssertGreaterThanOrEqual(maximum, 16 * small)
    XCTAssertGreaterThan(with.rate(from: 1), without.rate * 5)
    let changes = daemon.changes(of: Self.wmem).filter { $0.contains("\(path.left.inode)") }
    XCTAssertTrue(changes.first?.contains("4096 16384 \(small) -> 4096 16384 ") ?? false)
    XCTAssertTrue(changes.first?.contains(address) ?? false, "the log names the peer")
  }

  // MARK: Receive side

  func testLongReceiveBufferIPv4() async throws { try await receiveSide(Path.rightAddress.v4) }
  func testReceiveBufferIPv6() async throws { try await receiveSide(Path.rightAddress.v6) }

  private func receiveSide(_ address: String) async throws {
    let path = try await Path(delay: Path.ordinaryDelay)
    try await path.setLargeBuffers()
    try await path.right.set(Self.rmem, "4096 \(small) \(small)")
    let server = try await Iperf.server(in: path.right)
    let without = try await Iperf.run(from: path.left, to: address, seconds: 2)

    let daemon = try await Daemon()
    _ = try await Iperf.run(from: path.left, to: address, seconds: 2)
    // The first connection's window scale was fixed when the limit was small.
    let second = try await Iperf.run(from: path.left, to: address, seconds: 2)
    let maximum = try await path.right.maximum(Self.rmem)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    XCTAssertGreaterThanOrEqual(maximum, 16 * small)
    XCTAssertGreaterThan(second.rate, without.rate * 5)
  }

  func testModerationIsSwitchedOn() async throws {
    let path = try await Path(delay: 10)
    try await path.setLargeBuffers()
    try await path.right.set("net.ipv4.tcp_moderate_rcvbuf", "0")
    let server = try await Iperf.server(in: path.right)
    let without = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 1)
    let daemon = try await Daemon()
    let run = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 3)
    let moderation = try await path.right.sysctl("net.ipv4.tcp_moderate_rcvbuf")
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertEqual(moderation, "1")
    XCTAssertGreaterThan(run.rate(from: 1), without.rate * 3)
  }

  // MARK: The init namespace

  func testLongInitNamespace() async throws {
    let saved = try await SavedSysctls(Self.wmem, Self.rmem)
    do {
      let path = try await Path(delay: Path.ordinaryDelay, left: .initial)
      try await path.right.set(Self.rmem, "4096 131072 67108864")
      try await path.right.set(Self.wmem, "4096 16384 67108864")
      try await path.left.set(Self.wmem, "4096 16384 \(small)")
      try await path.left.set(Self.rmem, "4096 \(small) \(small)")
      let right = try await Iperf.server(in: path.right)
      let left = try await Iperf.server(in: path.left, port: 5202)
      let daemon = try await Daemon()
      _ = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 2)
      _ = try await Iperf.run(
        from: path.right, to: Path.leftAddress.v6, seconds: 2, port: 5202)
      let wmem = try await path.left.maximum(Self.wmem)
      let rmem = try await path.left.maximum(Self.rmem)
      try await daemon.stop()
      right.signal(SIGTERM)
      left.signal(SIGTERM)
      await path.close()
      XCTAssertGreaterThanOrEqual(wmem, 8 * small)
      XCTAssertGreaterThanOrEqual(rmem, 8 * small)
      XCTAssertTrue(daemon.changes(of: Self.wmem).contains { $0.contains("\"init\"") })
    } catch {
      await saved.restore()
      throw error
    }
    await saved.restore()
  }

  // MARK: Connections older than the daemon

  func testLongConnectionsOlderThanTheDaemon() async throws {
    let path = try await Path(delay: Path.ordinaryDelay)
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 \(small)")
    let server = try await Iperf.server(in: path.right)
    // In a guest the daemon takes seconds to start.
    let seconds = Guest.isHere ? 12.0 : 5
    async let running = Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: seconds)
    try await server.line(containing: "connected to")
    try await Task.sleep(for: .seconds(1))
    let daemon = try await Daemon()
    let result = try await running
    let maximum = try await path.left.maximum(Self.wmem)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertGreaterThanOrEqual(maximum, 16 * small)
    XCTAssertGreaterThan(
      result.rate(from: seconds - 1.5), result.intervals.prefix(8).reduce(0, +) / 8 * 5)
  }

  // MARK: What must not be tuned

  func testLongLockedBuffersAreLeftAlone() async throws {
    let path = try await Path(delay: Path.ordinaryDelay)
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 \(small)")
    try await path.right.set(Self.rmem, "4096 \(small) \(small)")
    let server = try await Iperf.server(in: path.right)
    let daemon = try await Daemon()
    // -w sets SO_SNDBUF and SO_RCVBUF on both ends.
    _ = try await Iperf.run(
      from: path.left, to: Path.rightAddress.v4, seconds: 2, options: ["-w", "64K"])
    let wmem = try await path.left.maximum(Self.wmem)
    let rmem = try await path.right.maximum(Self.rmem)
    // The same without -w, so that the test could have failed.
    _ = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 2)
    let after = try await path.left.maximum(Self.wmem)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertEqual(wmem, small)
    XCTAssertEqual(rmem, small)
    XCTAssertGreaterThan(after, small)
  }

  func testReaderThatDoesNotReadGetsNoLargerBuffer() async throws {
    let path = try await Path(delay: Path.ordinaryDelay)
    try await path.setLargeBuffers()
    try await path.right.set(Self.rmem, "4096 \(small) \(small)")
    let daemon = try await Daemon()
    let sockets = try await SlowReader.connect(path: path)
    // The sender fills whatever it can; the reader takes 2 KiB every 100 ms.
    try await sockets.transfer(seconds: 3, chunk: 2048, pause: 0.1)
    let rmem = try await path.right.maximum(Self.rmem)
    try await daemon.stop()
    sockets.close()
    await path.close()
    XCTAssertEqual(rmem, small)
  }
}

/// A connection whose reader takes little at a time.
private struct SlowReader: Sendable {
  let sender: Int32
  let receiver: Int32

  static func connect(path: Path) async throws -> SlowReader {
    let listener = try await path.right.inside { () -> Int32 in
      let fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
      var address = Self.address(Path.rightAddress.v4, port: 7000)
      let bound = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          bind(fd, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
      }
      return bound == 0 && listen(fd, 1) == 0 ? fd : -1
    }
    let sender = try await path.left.inside { () -> Int32 in
      let fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
      var address = Self.address(Path.rightAddress.v4, port: 7000)
      let connected = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          Glibc.connect(fd, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
      }
      _ = fcntl(fd, F_SETFL, O_NONBLOCK)
      return connected == 0 ? fd : -1
    }
    let receiver = accept(listener, nil, nil)
    Glibc.close(listener)
    guard sender >= 0, receiver >= 0 else {
      throw Command.Failure("no connection: \(String(cString: strerror(errno)))")
    }
    return SlowReader(sender: sender, receiver: receiver)
  }

  private static func address(_ text: String, port: UInt16) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    inet_pton(AF_INET, text, &address.sin_addr)
    return address
  }

  func transfer(seconds: Double, chunk: Int, pause: Double) async throws {
    let end = ContinuousClock.now + .seconds(seconds)
    var buffer = [UInt8](repeating: 0, count: 65536)
    while ContinuousClock.now < end {
      while send(sender, buffer, buffer.count, Int32(MSG_NOSIGNAL)) > 0 {}
      _ = recv(receiver, &buffer, chunk, 0)
      try await Task.sleep(for: .seconds(pause))
    }
  }

  func close() {
    Glibc.close(sender)
    Glibc.close(receiver)
  }
}
