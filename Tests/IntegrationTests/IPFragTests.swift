import Foundation
import Kernel
import TestSupport
import Tuners
import XCTest

/// ip-frag with real fragments, over a veth pair between two namespaces.
final class IPFragTests: IntegrationTestCase {
  private static let high = "net.ipv4.ipfrag_high_thresh"

  /// Two namespaces whose link takes 1,500 bytes; the right one has room for
  /// fragments of `limit` bytes.
  private struct Link {
    let left: TestNamespace
    let right: TestNamespace
    static let (from, to) = ("10.9.0.1", "10.9.0.2")

    init(_ label: String, limit: Int) async throws {
      left = try await TestNamespace("left-" + label)
      right = try await TestNamespace("right-" + label)
      try await execute(
        "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", right.name ?? "",
        netns: left.name)
      for (end, device, address) in [(left, "v0", Self.from), (right, "v1", Self.to)] {
        try await execute("ip", "addr", "add", "\(address)/24", "dev", device, netns: end.name)
        try await execute("ip", "link", "set", device, "up", netns: end.name)
      }
      let right = self.right
      try await eventually("a datagram through the link") { [left] in
        try await left.inside { _ = try? DatagramSocket().send(1, to: Self.to, 5000) }
        return try await right.counter("Udp", "NoPorts") > 0
      }
      try await right.set("net.ipv4.ipfrag_low_thresh", "4096")
      try await right.set(IPFragTests.high, "\(limit)")
    }

    /// A datagram of 60,000 bytes every 10 ms; how many were put together in
    /// each tenth.
    func send(_ count: Int) async throws -> [Int] {
      var arrived: [Int] = []
      var before = try await right.counter("Ip", "ReasmOKs")
      for _ in 0..<10 {
        try await left.inside {
          guard let sender = try? DatagramSocket() else { return }
          for _ in 0..<count / 10 {
            sender.send(1, to: Self.to, 5000, size: 60_000)
            usleep(10_000)
          }
        }
        let now = try await right.counter("Ip", "ReasmOKs")
        arrived.append(now - before)
        before = now
      }
      return arrived
    }

    func flood(_ count: Int, rounds: Int) async throws {
      try await left.inside {
        guard let flood = try? FragmentFlood() else { return }
        for _ in 0..<rounds {
          flood.send(count, to: Self.to, from: Self.from)
          usleep(50_000)
        }
        flood.end()
      }
    }

    func limit() async throws -> Int { Int(try await right.sysctl(IPFragTests.high)) ?? -1 }

    func delete() async {
      await left.delete()
      await right.delete()
    }
  }

  /// A datagram of 60,000 bytes takes more than the room of 64 KiB.
  func testDatagramsThatFindNoRoom() async throws {
    let alone = try await Link("alone", limit: 65536)
    let without = try await alone.send(50)
    await alone.delete()
    // What a test sets while the daemon runs is an administrator's.
    let link = try await Link("daemon", limit: 65536)
    let daemon = try await Daemon("--allow", "ip-frag")
    let failsBefore = try await link.right.counter("Ip", "ReasmFails")
    let with = try await link.send(100)
    let fails = try await link.right.counter("Ip", "ReasmFails") - failsBefore
    let raised = try await link.limit()
    try await daemon.stop()
    await link.delete()
    if with.suffix(5).min() != 10 { print(daemon.lines.suffix(40).joined(separator: "\n")) }
    print("ip-frag: of 5 and 10 each: \(without) without, \(with) with the daemon; \(fails) refused")
    XCTAssertEqual(without.reduce(0, +), 0)
    XCTAssertGreaterThanOrEqual(with.reduce(0, +), 90)
    XCTAssertEqual(with.suffix(5).min(), 10)
    XCTAssertGreaterThan(raised, 65536)
    XCTAssertLessThanOrEqual(daemon.changes(of: Self.high).count, 4)
  }

  func testAFloodOfFirstFragments() async throws {
    let link = try await Link("flood", limit: 262_144)
    let daemon = try await Daemon("--allow", "ip-frag")
    try await link.flood(1000, rounds: 25)
    _ = try await daemon.line(containing: "a flood looks like this")
    let refused = try await link.right.counter("Ip", "ReasmFails")
    let limit = try await link.limit()
    try await daemon.stop()
    await link.delete()
    XCTAssertGreaterThan(refused, 5000)
    XCTAssertEqual(limit, 262_144)
    XCTAssertEqual(daemon.changes(of: Self.high), [])
  }
}
