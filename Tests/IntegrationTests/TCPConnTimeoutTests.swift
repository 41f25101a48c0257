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

  /// The path and, on its left side, a service whose answers are of one segment: what
  /// is lost of them is sent again by time-out or not at all.
  private func service() async throws -> (path: Path, server: Command) {
    let path = try await path(Self.losing, delay: Self.near)
    return (path, try await answerer(path))
  }

  private func answerer(_ path: Path) async throws -> Command {
    try await TCPLoad.answerer(in: path.left, port: Self.port, bytes: 1000)
  }

  private func asking(_ path: Path, _ count: Int) throws -> Command {
    try TCPLoad.asking(
      from: path.right, to: Path.leftAddress.v4, port: Self.port, count: count, bytes: 1000)
  }

  /// The mean time to an answer, in milliseconds.
  private func ask(_ path: Path, _ count: Int) async throws -> Double {
    try await TCPLoad.ask(
      from: path.right, to: Path.leftAddress.v4, port: Self.port, count: count, bytes: 1000)
  }

  private func ask(_ path: Path, until lines: [String], by daemon: Daemon) async throws {
    let asking = try asking(path, 100_000)
    for line in lines {
      try await eventually(upTo: 30, line) { daemon.lines.contains { $0.contains(line) } }
    }
    asking.signal(SIGKILL)
    try await eventually("it to end") { try await self.timeout(path) == nil }
  }

  private func known(_ path: Path) async throws -> ConnectionPath {
    let all = try await ConnectionPath.all(from: path.left)
    return try XCTUnwrap(all.first { $0.path == Self.peer })
  }

  /// Milliseconds: what the service's side of the connection waits by now; nil where
  /// there is none.
  private func timeout(_ path: Path) async throws -> Double? {
    try await execute(
      "ss", "-tinH", "state", "established", "sport", "=", ":\(Self.port)", netns: path.left.name
    ).split(whereSeparator: \.isWhitespace).first { $0.hasPrefix("rto:") }
      .flatMap { Double($0.dropFirst("rto:".count)) }
  }

  func testAnswersComeSoonerWhereMuchIsLost() async throws {
    let (path, server) = try await service()
    let without = try await ask(path, 90)
    let daemon = try await daemon()
    // Questions are lost as well as answers.
    try await ask(
      path, until: [Self.sooner, "time-outs to \(Path.leftAddress.v4): 50 ms"], by: daemon)
    _ = try await ask(path, 2)
    let known = try await known(path)
    let with = try await ask(path, 90)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    print("a mean answer: \(without) ms without, \(with) with")
    XCTAssertFalse(daemon.lines.contains { $0.contains(Self.later) })
    XCTAssertEqual(known.soonerTimeouts.connections, 2, "the second one from its start")
    XCTAssertLessThan(with, without * 0.85)
  }

  func testLongDryRunOnlyTells() async throws {
    let (path, server) = try await service()
    let daemon = try await daemon("--dry-run")
    try await ask(path, until: ["advice: " + Self.sooner], by: daemon)
    let asking = try asking(path, 100_000)
    try await eventually("another connection") { try await self.timeout(path) != nil }
    try await Task.sleep(for: .seconds(1))
    let waits = try await timeout(path)
    let known = try await known(path)
    asking.signal(SIGKILL)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    XCTAssertEqual(known.soonerTimeouts.connections, 0)
    XCTAssertGreaterThan(try XCTUnwrap(waits), 190)
  }

  /// Another least time-out, of the route or of the namespace, is left alone.
  func testLongChosenTimeoutsAreLeftAlone() async throws {
    var (path, server) = try await service()
    try await execute(
      "ip", "route", "change", "10.98.1.0/24", "dev", "path0", "rto_min", "150ms",
      netns: path.left.name)
    let daemon = try await daemon()
    _ = try await ask(path, 100)
    let byRoute = try await known(path)
    try await execute(
      "ip", "route", "change", "10.98.1.0/24", "dev", "path0", netns: path.left.name)
    try await daemon.stop()

    var bySysctl: ConnectionPath?
    if KernelVersion.running >= KernelVersion(6, 11) {
      // Sockets made since then have it.
      try await path.left.set("net.ipv4.tcp_rto_min_us", "150000")
      server.signal(SIGTERM)
      _ = try await server.wait()
      server = try await answerer(path)
      let daemon = try await self.daemon()
      _ = try await ask(path, 100)
      bySysctl = try await known(path)
      try await daemon.stop()
      XCTAssertFalse(daemon.lines.contains { $0.contains(Self.sooner) })
    }
    server.signal(SIGTERM)
    await path.close()

    for known in [byRoute, bySysctl].compactMap({ $0 }) {
      XCTAssertGreaterThanOrEqual(known.retransmitted, 6, "it lost as much")
      XCTAssertEqual(known.soonerTimeouts.connections, 0)
    }
    XCTAssertFalse(daemon.lines.contains { $0.contains(Self.sooner) })
  }

  func testAdministratorsTimeoutDisables() async throws {
    try XCTSkipIf(
      KernelVersion.running < KernelVersion(6, 11), "this kernel has no tcp_rto_min_us")
    let namespace = try await TestNamespace("chosen")
    let daemon = try await daemon()
    try await namespace.set("net.ipv4.tcp_rto_min_us", "300000")
    try await eventually("the administrator to be heard") { daemon.isDisabled(in: namespace) }
    try await daemon.stop()
    await namespace.delete()
  }

  /// A path that has lost much, and by now only stands still now and then: what was
  /// sent arrives all the same, and what was sent again is in vain.
  func testLongTimeoutsThatComeTooEarlyAreNotGivenToNewConnections() async throws {
    let (path, server) = try await service()
    let daemon = try await daemon()
    _ = try await ask(path, 200)
    try await path.emulate(delay: Self.near, options: [])
    let first = try asking(path, 100_000)
    try await eventually("the connection to send again sooner") {
      try await self.timeout(path).map { $0 < 150 } ?? false
    }
    for _ in 0..<150 where !daemon.lines.contains(where: { $0.contains(Self.later) }) {
      try await Task.sleep(for: .milliseconds(500))
      try await path.stall(for: .milliseconds(130))
    }
    first.signal(SIGKILL)
    try await eventually("it to end") { try await self.timeout(path) == nil }
    let second = try asking(path, 100_000)
    try await eventually("another connection") { try await self.timeout(path) != nil }
    try await Task.sleep(for: .seconds(1))
    let after = try await timeout(path)
    second.signal(SIGKILL)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    XCTAssertTrue(daemon.lines.contains { $0.contains(Self.sooner) })
    XCTAssertTrue(daemon.lines.contains { $0.contains(Self.later) })
    XCTAssertGreaterThan(try XCTUnwrap(after), 190)
  }
}
