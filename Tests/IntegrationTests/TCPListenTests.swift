import Foundation
import TestSupport
import XCTest

/// tcp-listen with real listeners, bursts of connections and a flood of SYNs.
final class TCPListenTests: IntegrationTestCase {
  private static let somaxconn = "net.core.somaxconn"
  private static let synBacklog = "net.ipv4.tcp_max_syn_backlog"
  private static let synCookies = "net.ipv4.tcp_syncookies"
  private static let address = "10.77.0.1"

  /// A namespace that connects to itself, and drops what goes to 10.99.0.0/16.
  private func namespace(somaxconn: Int = 4096) async throws -> TestNamespace {
    let namespace = try await TestNamespace("listen")
    let name = namespace.name
    try await execute("ip", "addr", "add", "\(Self.address)/32", "dev", "lo", netns: name)
    try await execute("ip", "route", "add", "10.99.0.0/16", "dev", "lo", netns: name)
    try await namespace.set(Self.somaxconn, "\(somaxconn)")
    return namespace
  }

  /// SYNs and connections that a burst loses for want of room.
  private func drops(
    in namespace: TestNamespace, _ burst: () async throws -> Int
  ) async throws -> (lost: Int, established: Int) {
    let before = try await TCPLoad.counter("ListenDrops", in: namespace)
    let established = try await burst()
    return (try await TCPLoad.counter("ListenDrops", in: namespace) - before, established)
  }

  // MARK: The accept queue

  /// The server accepts all that waits every 50 ms; its backlog was clamped.
  func testClampedBacklogAndListenAgain() async throws {
    let namespace = try await namespace(somaxconn: 64)
    let server = try await TCPLoad.server(in: namespace, port: 8001, backlog: 1024, pause: 50)
    let burst = {
      try await TCPLoad.burst(from: namespace, to: Self.address, port: 8001, count: 300)
    }
    let without = try await drops(in: namespace, burst)
    // The daemon is younger than this listener: it finds its process itself.
    let daemon = try await Daemon("--allow", "tcp-listen")
    _ = try await burst()
    try await eventually("somaxconn to rise") {
      Int(try await namespace.sysctl(Self.somaxconn)) ?? 0 > 300
    }
    let change = try XCTUnwrap(daemon.changes(of: Self.somaxconn).first)
    server.signal(SIGHUP)
    try await server.line(containing: "listening again")
    let with = try await drops(in: namespace, burst)
    try await daemon.stop()
    server.signal(SIGTERM)
    await namespace.delete()

    XCTAssertGreaterThan(without.lost, 100)
    XCTAssertEqual(with.lost, 0)
    XCTAssertEqual(with.established, 300)
    XCTAssertTrue(change.contains("pid \(server.pid) "), change)
    XCTAssertTrue(change.contains("call listen() again"), change)
  }

  /// Ten connections a second are all that it accepts.
  func testSlowProcessIsNamedAndNotTunedFor() async throws {
    let namespace = try await namespace(somaxconn: 64)
    let daemon = try await Daemon("--allow", "tcp-listen")
    let server = try await TCPLoad.server(
      in: namespace, port: 8002, backlog: 1024, pause: 100, each: 1)
    let burst = try Command(
      [Products.path("tcp-load"), "burst", Self.address, "8002", "200"], netns: namespace.name)
    let line = try await daemon.line(containing: "accepts too slowly")
    let value = try await namespace.sysctl(Self.somaxconn)
    burst.signal(SIGKILL)
    try await daemon.stop()
    server.signal(SIGTERM)
    await namespace.delete()
    XCTAssertEqual(value, "64")
    XCTAssertTrue(line.contains("port 8002: pid \(server.pid) (tcp-load)"), line)
  }

  func testProcessThatAsksForLittleIsNamed() async throws {
    let namespace = try await namespace()
    let daemon = try await Daemon("--allow", "tcp-listen")
    let server = try await TCPLoad.server(in: namespace, port: 8003, backlog: 16, pause: 50)
    let burst = try Command(
      [Products.path("tcp-load"), "burst", Self.address, "8003", "100"], netns: namespace.name)
    let line = try await daemon.line(containing: "asked listen() for no more")
    let value = try await namespace.sysctl(Self.somaxconn)
    burst.signal(SIGKILL)
    try await daemon.stop()
    server.signal(SIGTERM)
    await namespace.delete()
    XCTAssertEqual(value, "4096")
    XCTAssertTrue(line.contains("pid \(server.pid) (tcp-load)"), line)
  }

  /// A container that opens ports by the hundred is not heard of each time.
  func testFullListenersByTheHundredAreFolded() async throws {
    let namespace = try await namespace()
    let daemon = try await Daemon("--allow", "tcp-listen")
    let full = try await namespace.inside { () -> Int in
      var sockets: [Int32] = []
      defer { for one in sockets { close(one) } }
      return (10_000..<10_300).count { port in
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        inet_pton(AF_INET, Self.address, &address.sin_addr)
        return withUnsafePointer(to: &address) {
          $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
            let size = socklen_t(MemoryLayout<sockaddr_in>.size)
            let pair = (0..<2).map { _ in socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0) }
            sockets += pair
            return bind(pair[0], address, size) == 0 && listen(pair[0], 0) == 0
              && connect(pair[1], address, size) == 0
          }
        }
      }
    }
    let mine = "netns \(namespace.inode): nothing to change"
    _ = try await daemon.line(containing: mine)
    try await daemon.stop()
    await namespace.delete()
    let told = daemon.lines.count { $0.contains(mine) }
    XCTAssertEqual(full, 300)
    // 64 a second: under load it may take more than one.
    XCTAssertLessThan(told, 250)
  }

  // MARK: The queue of SYNs

  /// Connections take a round trip to be established, and more are asked for in
  /// that time than `tcp_max_syn_backlog` allows.
  func testSYNBacklogGrowsForConnections() async throws {
    let path = try await Path(delay: 50)
    try await path.right.set(Self.synCookies, "0")
    try await path.right.set(Self.synBacklog, "64")
    // The kernel would make room for a peer that it knows.
    try await path.right.set("net.ipv4.tcp_no_metrics_save", "1")
    let server = try await TCPLoad.server(in: path.right, port: 8004, backlog: 1024, pause: 5)
    let burst = {
      try await TCPLoad.burst(from: path.left, to: Path.rightAddress.v4, port: 8004, count: 250)
    }
    let daemon = try await Daemon("--allow", "tcp-listen")
    // The first finds the backlog as it was, the last as it has become.
    let first = try await drops(in: path.right, burst)
    let last = try await drops(in: path.right, burst)
    let backlog = Int(try await path.right.sysctl(Self.synBacklog)) ?? 0
    let cookies = try await path.right.sysctl(Self.synCookies)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()

    XCTAssertGreaterThan(first.lost, 100)
    XCTAssertEqual(last.lost, 0)
    XCTAssertEqual(last.established, 250)
    XCTAssertGreaterThan(backlog, 250)
    XCTAssertEqual(cookies, "0")
  }

  func testFloodBringsCookiesAndNoMoreRoom() async throws {
    let namespace = try await namespace()
    try await namespace.set(Self.synCookies, "0")
    try await namespace.set(Self.synBacklog, "128")
    let server = try await TCPLoad.server(in: namespace, port: 8005, backlog: 1024, pause: 5)
    let daemon = try await Daemon("--allow", "tcp-listen")
    let flood = try TCPLoad.flood(
      in: namespace, from: "10.99.0.0", to: Self.address, port: 8005, count: 4000, rate: 1000)
    try await eventually("SYN cookies") { try await namespace.sysctl(Self.synCookies) == "1" }
    // The queue is full of the flood, and connections come in all the same.
    let established = try await TCPLoad.burst(
      from: namespace, to: Self.address, port: 8005, count: 50)
    let backlog = try await namespace.sysctl(Self.synBacklog)
    flood.signal(SIGKILL)
    try await daemon.stop()
    server.signal(SIGTERM)
    await namespace.delete()
    XCTAssertEqual(established, 50)
    XCTAssertEqual(backlog, "128")
    XCTAssertTrue(
      daemon.changes(of: Self.synCookies).first?.contains("a flood of SYNs") ?? false)
  }

  /// Room that was made for connections is taken back when a flood fills it.
  func testLongFloodTakesBackTheRoomMadeForConnections() async throws {
    let path = try await Path(delay: 50)
    try await path.right.set(Self.synCookies, "0")
    try await path.right.set(Self.synBacklog, "64")
    try await path.right.set("net.ipv4.tcp_no_metrics_save", "1")
    // What answers the flood goes nowhere.
    try await execute(
      "ip", "route", "add", "10.99.0.0/16", "dev", "lo", netns: path.right.name)
    let server = try await TCPLoad.server(in: path.right, port: 8006, backlog: 1024, pause: 5)
    let daemon = try await Daemon("--allow", "tcp-listen")
    for _ in 0..<2 {
      try await TCPLoad.burst(from: path.left, to: Path.rightAddress.v4, port: 8006, count: 250)
    }
    let raised = Int(try await path.right.sysctl(Self.synBacklog)) ?? 0
    let flood = try TCPLoad.flood(
      in: path.right, from: "10.99.0.0", to: Path.rightAddress.v4, port: 8006, count: 8000,
      rate: 1000)
    try await eventually(upTo: 20, "SYN cookies, and the backlog as it was") {
      let cookies = try await path.right.sysctl(Self.synCookies)
      let backlog = try await path.right.sysctl(Self.synBacklog)
      return cookies == "1" && backlog == "64"
    }
    let established = try await TCPLoad.burst(
      from: path.left, to: Path.rightAddress.v4, port: 8006, count: 50)
    flood.signal(SIGKILL)
    try await daemon.stop()
    server.signal(SIGTERM)
    await path.close()
    XCTAssertGreaterThan(raised, 250)
    XCTAssertEqual(established, 50)
  }

  /// With cookies on the kernel does not look at the backlog, and they hold a
  /// flood off: there is nothing to change.
  func testLongFloodAgainstCookiesChangesNothing() async throws {
    let namespace = try await namespace()
    try await namespace.set(Self.synCookies, "1")
    try await namespace.set(Self.synBacklog, "128")
    let server = try await TCPLoad.server(in: namespace, port: 8007, backlog: 1024, pause: 5)
    let daemon = try await Daemon("--allow", "tcp-listen")
    let flood = try TCPLoad.flood(
      in: namespace, from: "10.99.0.0", to: Self.address, port: 8007, count: 4000, rate: 1000)
    try await eventually("cookies to go out") {
      try await TCPLoad.counter("SyncookiesSent", in: namespace) > 0
    }
    let established = try await TCPLoad.burst(
      from: namespace, to: Self.address, port: 8007, count: 50)
    try await flood.wait(upTo: 30)
    try await daemon.stop()
    let backlog = try await namespace.sysctl(Self.synBacklog)
    let cookies = try await namespace.sysctl(Self.synCookies)
    server.signal(SIGTERM)
    await namespace.delete()
    XCTAssertEqual(established, 50)
    XCTAssertEqual([backlog, cookies], ["128", "1"])
    XCTAssertEqual(daemon.changes(of: Self.synBacklog), [])
  }
}
