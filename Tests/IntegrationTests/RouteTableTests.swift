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

  /// So many routes, each looked up once: the kernel holds a copy of each.
  private func routes(_ count: Int) async throws -> TestNamespace {
    let namespace = try await TestNamespace("routes")
    let name = namespace.name
    try await execute(
      "ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1", netns: name)
    for device in ["d0", "d1"] {
      try await execute("ip", "link", "set", device, "up", netns: name)
    }
    try await execute("ip", "addr", "add", "fd99::1/64", "dev", "d0", "nodad", netns: name)
    try await namespace.set(Self.maximum, "128")
    try await namespace.set(Self.threshold, "32")
    let add = (1...count).map { "echo route add fd98::\(String($0, radix: 16))/128 dev d0" }
    try await execute("sh", "-c", "(\(add.joined(separator: "; "))) | ip -6 -batch -", netns: name)
    return namespace
  }

  private func lookUp(_ count: Int, in namespace: TestNamespace) async throws {
    _ = try await namespace.inside {
      let fd = socket(AF_INET6, Int32(SOCK_DGRAM.rawValue), 0)
      defer { close(fd) }
      for number in 1...count {
        var address = sockaddr_in6()
        address.sin6_family = sa_family_t(AF_INET6)
        address.sin6_port = UInt16(9).bigEndian
        inet_pton(AF_INET6, "fd98::\(String(number, radix: 16))", &address.sin6_addr)
        _ = withUnsafePointer(to: &address) {
          $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            sendto(fd, "x", 1, 0, $0, socklen_t(MemoryLayout<sockaddr_in6>.size))
          }
        }
      }
    }
  }

  func testATableThatStaysFullIsGrown() async throws {
    let namespace = try await routes(400)
    let tuner = try await OneTuner {
      RouteTable(learningRate: $0, times: RouteTable.Times(full: .milliseconds(100)))
    }
    try await eventually(upTo: 20, "a larger table") {
      try await self.lookUp(400, in: namespace)
      return try await (Int(namespace.sysctl(Self.maximum)) ?? 0) >= 512
    }
    let threshold = try await namespace.sysctl(Self.threshold)
    let other = try await TestNamespace.initial.sysctl(Self.maximum)
    await tuner.stop()
    let after = try await [namespace.sysctl(Self.maximum), namespace.sysctl(Self.threshold)]
    await namespace.delete()
    XCTAssertEqual(threshold, "128")
    XCTAssertEqual(after, ["128", "32"], "put back")
    XCTAssertNotEqual(other, "512", "another namespace's")
  }

  /// A storm of lookups that leaves nothing behind.
  func testManyLookupsOfFewRoutesRaiseNothing() async throws {
    let namespace = try await routes(20)
    let tuner = try await OneTuner {
      RouteTable(learningRate: $0, times: RouteTable.Times(full: .milliseconds(1)))
    }
    for _ in 0..<200 { try await lookUp(20, in: namespace) }
    let maximum = try await namespace.sysctl(Self.maximum)
    await tuner.stop()
    await namespace.delete()
    XCTAssertEqual(maximum, "128")
    XCTAssertFalse(tuner.lines.all.contains { $0.contains("max_size") })
  }
}
