import Foundation
import TestSupport
import XCTest

/// What tests with fragments share.
class IPFragTestCase: IntegrationTestCase {
  static let high = "net.ipv4.ipfrag_high_thresh"

  /// Two namespaces whose link takes 1,500 bytes; the right one has room for
  /// fragments of `limit` bytes.
  struct Link {
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
      try await right.set(IPFragTestCase.high, "\(limit)")
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

    func flood(_ count: Int, rounds: Int, fragments: [Int] = [0]) async throws {
      try await left.inside {
        guard let flood = try? FragmentFlood() else { return }
        for _ in 0..<rounds {
          flood.send(count, to: Self.to, from: Self.from, fragments: fragments)
          usleep(50_000)
        }
        flood.end()
      }
    }

    func limit() async throws -> Int { Int(try await right.sysctl(IPFragTestCase.high)) ?? -1 }

    func delete() async {
      await left.delete()
      await right.delete()
    }
  }
}
