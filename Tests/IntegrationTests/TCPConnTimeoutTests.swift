import Foundation
import Kernel
import TestSupport
import XCTest

/// tcp-conn's time-outs: how long a connection waits before it sends again.
final class TCPConnTimeoutTests: TCPConnTestCase {
  /// A near peer, and a path that loses one packet of twelve.
  private static let near = 5.0
  private static let losing = ["--loss-percent", "8", "--seed", "3"]
  private static let port = 7000
  private static let peer = Path.rightAddress.v4

  private static let sooner = "time-outs to \(peer): 50 ms"
  private static let later = "time-outs to \(peer): 200 ms"

  /// Answers of one segment: what is lost is sent again by time-out or not at all.
  private func ask(_ path: Path, _ count: Int) async throws -> Double {
    try await TCPLoad.ask(
      from: path.right, to: Path.leftAddress.v4, port: Self.port, count: count, bytes: 1000)
  }

  private func known(_ path: Path) async throws -> ConnectionPath {
    let all = try await ConnectionPath.all(from: path.left)
    return try XCTUnwrap(all.first { $0.path == Self.peer })
  }

  func testAnswersComeSoonerWhereMuchIsLost() async throws {
    let path = try await path(Self.losing, delay: Self.near)
    let server = try await TCPLoad.answerer(in: path.left, port: Self.port, bytes: 1000)
    let without = try await ask(path, 100)
    let advisor = try await daemon("--dry-run")
    _ = try await ask(path, 40)
    let advised = try await known(path)
    try await advisor.stop()

    let daemon = try await daemon()
    _ = try await ask(path, 40)
    let with = try await ask(path, 100)
    let known = try await known(path)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    print("a mean answer: \(without) ms without, \(with) with")
    XCTAssertTrue(advisor.lines.contains { $0.contains("advice: " + Self.sooner) })
    XCTAssertEqual(advised.soonerTimeouts.connections, 0)
    XCTAssertTrue(daemon.lines.contains { $0.contains(Self.sooner) })
    XCTAssertFalse(daemon.lines.contains { $0.contains(Self.later) })
    XCTAssertEqual(known.soonerTimeouts.connections, 2, "the second one from its start")
    XCTAssertGreaterThan(known.soonerTimeouts.sentAgain, 5)
    XCTAssertLessThan(with, without * 0.75)
  }

  /// An administrator's time-out, of the route or of the namespace, is left alone.
  func testChosenTimeoutsAreLeftAlone() async throws {
    let path = try await path(Self.losing, delay: Self.near)
    let server = try await TCPLoad.answerer(in: path.left, port: Self.port, bytes: 1000)
    let daemon = try await daemon()
    try await execute(
      "ip", "route", "change", "10.98.1.0/24", "dev", "path0", "rto_min", "300ms",
      netns: path.left.name)
    _ = try await ask(path, 40)
    let byRoute = try await known(path)
    try await execute(
      "ip", "route", "change", "10.98.1.0/24", "dev", "path0", netns: path.left.name)
    var bySysctl: ConnectionPath?
    if KernelVersion.running >= KernelVersion(6, 11) {
      try await path.left.set("net.ipv4.tcp_rto_min_us", "300000")
      try await eventually("the administrator to be heard") { daemon.isDisabled(in: path.left) }
      _ = try await ask(path, 40)
      bySysctl = try await known(path)
    }
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    XCTAssertGreaterThan(byRoute.retransmitted * 50, byRoute.segments, "it lost as much")
    XCTAssertEqual(byRoute.soonerTimeouts.connections, 0)
    XCTAssertEqual(bySysctl?.soonerTimeouts.connections ?? 0, 0)
    XCTAssertFalse(daemon.lines.contains { $0.contains(Self.sooner) })
  }

  /// A path that has lost much, and by now only stands still now and then: what was
  /// sent arrives all the same, and what was sent again a second time.
  func testLongTimeoutsThatComeTooEarlyAreTakenBack() async throws {
    let path = try await path(Self.losing, delay: Self.near)
    let server = try await TCPLoad.answerer(in: path.left, port: Self.port, bytes: 1000)
    let daemon = try await daemon()
    _ = try await ask(path, 100)
    try await path.emulate(delay: Self.near, options: [])
    let asking = try TCPLoad.asking(
      from: path.right, to: Path.leftAddress.v4, port: Self.port, count: 100_000, bytes: 1000)
    for _ in 0..<100 where !daemon.lines.contains(where: { $0.contains(Self.later) }) {
      try await Task.sleep(for: .milliseconds(500))
      try await path.stall(for: .milliseconds(130))
    }
    asking.signal(SIGKILL)
    let known = try await known(path)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    XCTAssertTrue(daemon.lines.contains { $0.contains(Self.sooner) })
    XCTAssertTrue(daemon.lines.contains { $0.contains(Self.later) })
    XCTAssertEqual(known.soonerTimeouts.sentAgain, 0, "it is counted anew")
  }
}
