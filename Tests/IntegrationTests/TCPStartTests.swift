import Foundation
import Kernel
import TestSupport
import XCTest

/// tcp-start with a service of hundreds of short connections over a path of 10 ms.
final class TCPStartTests: IntegrationTestCase {
  /// How often the kernel grew buffers for so many connections: of the service,
  /// and of its clients.
  private func growths(_ path: Path, port: Int, count: Int = 96) async throws -> (
    send: Int, receive: Int
  ) {
    let service = try await TCPLoad.responder(in: path.right, port: port, bytes: 300_000)
    let receive = try await TCPLoad.request(
      from: path.left, to: Path.rightAddress.v4, port: port, count: count)
    try await service.line(containing: "served \(count) ")
    service.signal(SIGTERM)
    return (Int(service.lines.last?.split(separator: " ").last ?? "") ?? -1, receive)
  }

  func testConnectionsBeginWithWhatTheyNeed() async throws {
    let path = try await Path(delay: 5)
    try await path.setLargeBuffers()
    let before = try await growths(path, port: 8101)
    let daemon = try await Daemon("--allow", "tcp-start")
    _ = try await growths(path, port: 8102, count: 160)
    try await eventually("the starting sizes") {
      let send = try await initial(Self.wmem, in: path.right)
      let receive = try await initial(Self.rmem, in: path.left)
      return send > 16384 && receive > 131_072
    }
    let after = try await growths(path, port: 8103)
    let send = try await initial(Self.wmem, in: path.right)
    let receive = try await initial(Self.rmem, in: path.left)
    try await daemon.stop()
    await path.close()

    print("growths: \(before) before, \(after) after")
    XCTAssertGreaterThan(before.send, 96)
    XCTAssertLessThanOrEqual(after.send, before.send / 10)
    XCTAssertGreaterThan(before.receive, 96)
    // Before 6.16 the kernel makes one great step, from whatever a receive buffer
    // begins with (tcp_rcv_space_adjust in net/ipv4/tcp_input.c).
    XCTAssertLessThanOrEqual(
      after.receive,
      KernelVersion.running >= KernelVersion(6, 16)
        ? before.receive / 10 : before.receive)
    // Far from the maximum.
    XCTAssertLessThanOrEqual(send, 4 << 20)
    XCTAssertLessThanOrEqual(receive, 4 << 20)
    let change = daemon.changes(of: Self.wmem).first { $0.contains("\(path.right.inode)") }
    XCTAssertTrue(change?.contains("port 8102: ") ?? false, change ?? "no change")
  }

  /// Connections that carry little have no say.
  func testSmallConnectionsChangeNothing() async throws {
    let path = try await Path(delay: 1)
    let daemon = try await Daemon("--allow", "tcp-start")
    let service = try await TCPLoad.responder(in: path.right, port: 8105, bytes: 4000)
    try await TCPLoad.request(
      from: path.left, to: Path.rightAddress.v4, port: 8105, count: 200)
    let wmem = try await initial(Self.wmem, in: path.right)
    let rmem = try await initial(Self.rmem, in: path.left)
    try await daemon.stop()
    service.signal(SIGTERM)
    await path.close()
    XCTAssertEqual(wmem, 16384)
    XCTAssertEqual(rmem, 131_072)
    XCTAssertTrue(daemon.lines.contains { $0.contains("nothing was changed") })
  }
}
