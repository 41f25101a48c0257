import Kernel
import TestSupport
import Tuners
import XCTest

/// route-table. No kernel that the tests know refuses IPv6 routes any more, so
/// what is shown here is that the tuner sees that; and that the hook, the policy
/// and the write hold together where the tuner is made to believe otherwise.
final class RouteTableTests: IntegrationTestCase {
  private static let maximum = "net.ipv6.route.max_size"
  private static let threshold = "net.ipv6.route.gc_thresh"

  func testNotNeededWhereTheKernelHasNoLimit() async throws {
    let check = try Command([Products.path("bpftune"), "check"])
    try await check.wait()
    let line = check.lines.first { $0.contains("IPv6 route table filling") } ?? check.output
    let usual = try await TestNamespace.initial.sysctl(Self.maximum)
    if RouteLimit.exists {
      XCTAssertTrue(line.contains("tp_btf/fib6_table_lookup"), line)
    } else {
      XCTAssertTrue(
        line.contains("not needed: this kernel has no limit on IPv6 routes"), line)
      // The same change of the kernel made this the default.
      XCTAssertEqual(usual, "2147483647")
    }
  }

  private func route() async throws -> TestNamespace {
    let namespace = try await TestNamespace("routes")
    let name = namespace.name
    try await execute(
      "ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1", netns: name)
    for device in ["d0", "d1"] {
      try await execute("ip", "link", "set", device, "up", netns: name)
    }
    try await execute("ip", "addr", "add", "fd99::1/64", "dev", "d0", "nodad", netns: name)
    try await execute("ip", "route", "add", "fd98::/64", "dev", "d0", netns: name)
    try await namespace.set(Self.maximum, "128")
    try await namespace.set(Self.threshold, "100")
    return namespace
  }

  private static let port: UInt16 = 4000

  /// Sends a packet to so many destinations; or tells the kernel that the paths to
  /// them take no long ones: it keeps a route for each of those.
  private func send(
    to count: Int, tooLong: Bool = false, in namespace: TestNamespace
  ) async throws {
    let failure = try await namespace.inside { () -> Int32 in
      let udp = socket(AF_INET6, Int32(SOCK_DGRAM.rawValue), 0)
      let icmp = socket(AF_INET6, Int32(SOCK_RAW.rawValue), Int32(IPPROTO_ICMPV6))
      defer { close(udp) }
      defer { close(icmp) }
      guard Self.with(Self.address("::", Self.port), { bind(udp, $0, $1) }) == 0 else {
        return errno
      }
      for number in 1...count {
        let text = "fd98::\(String(number, radix: 16))"
        let to = Self.address(text, 9)
        guard tooLong else {
          _ = Self.with(to) { sendto(udp, "x", 1, 0, $0, $1) }
          continue
        }
        let message = Self.packetTooBig(Self.address("fd99::1", 0), to)
        let sent = Self.with(Self.address("fd99::1", 0)) {
          sendto(icmp, message, message.count, 0, $0, $1)
        }
        guard sent == message.count else { return errno }
      }
      return 0
    }
    XCTAssertEqual(failure, 0, "errno")
  }

  private static func address(_ text: String, _ port: UInt16) -> sockaddr_in6 {
    var address = sockaddr_in6()
    address.sin6_family = sa_family_t(AF_INET6)
    address.sin6_port = port.bigEndian
    inet_pton(AF_INET6, text, &address.sin6_addr)
    return address
  }

  private static func with<R>(
    _ address: sockaddr_in6, _ body: (UnsafePointer<sockaddr>, socklen_t) -> R
  ) -> R {
    withUnsafePointer(to: address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        body($0, socklen_t(MemoryLayout<sockaddr_in6>.size))
      }
    }
  }

  /// RFC 4443, 3.2, about a UDP packet from there to there.
  private static func packetTooBig(_ from: sockaddr_in6, _ to: sockaddr_in6) -> [UInt8] {
    func bytes(_ address: sockaddr_in6) -> [UInt8] {
      withUnsafeBytes(of: address.sin6_addr) { Array($0) }
    }
    let header: [UInt8] = [2, 0, 0, 0, 0, 0, 5, 0]  // 1,280 bytes
    let ip: [UInt8] = [0x60, 0, 0, 0, 0, 9, 17, 64] + bytes(from) + bytes(to)
    let udp: [UInt8] = [UInt8(port >> 8), UInt8(port & 0xff), 0, 9, 0, 9, 0, 0, 0x78]
    return header + ip + udp
  }

  func testATableThatStaysFullIsGrown() async throws {
    let namespace = try await route()
    let tuner = try await OneTuner {
      RouteTable(learningRate: $0, times: RouteTable.Times(full: .milliseconds(100)))
    }
    try await eventually(upTo: 20, "a larger table") {
      try await self.send(to: 400, tooLong: true, in: namespace)
      return try await (Int(namespace.sysctl(Self.maximum)) ?? 0) >= 512
    }
    let threshold = try await namespace.sysctl(Self.threshold)
    let other = try await TestNamespace.initial.sysctl(Self.maximum)
    await tuner.stop()
    let after = try await [namespace.sysctl(Self.maximum), namespace.sysctl(Self.threshold)]
    await namespace.delete()
    XCTAssertNotEqual(threshold, "100")
    XCTAssertEqual(after, ["128", "100"], "put back")
    XCTAssertNotEqual(other, "512", "another namespace's")
  }

  /// A storm of lookups that leaves nothing behind.
  func testManyLookupsRaiseNothing() async throws {
    let namespace = try await route()
    let tuner = try await OneTuner {
      RouteTable(learningRate: $0, times: RouteTable.Times(full: .milliseconds(1)))
    }
    for _ in 0..<200 { try await send(to: 20, in: namespace) }
    let maximum = try await namespace.sysctl(Self.maximum)
    await tuner.stop()
    await namespace.delete()
    XCTAssertEqual(maximum, "128")
    XCTAssertFalse(tuner.lines.all.contains { $0.contains("max_size") })
  }
}
