import Foundation
import Kernel
import TestSupport
import Tuners
import XCTest

/// ip-frag with real fragments: what is not needed at every build.
final class IPFragLongTests: IPFragTestCase {
  /// One fragment of ten is missing, of every datagram.
  func testARaiseThatBringsNothingIsTakenBack() async throws {
    let link = try await Link("nothing", limit: 262_144)
    let daemon = try await Daemon("--allow", "ip-frag")
    try await link.flood(100, rounds: 60, fragments: [0, 1, 2, 3, 4, 6, 7, 8, 9])
    let limit = try await link.limit()
    try await daemon.stop()
    await link.delete()
    let changes = daemon.changes(of: Self.high)
    XCTAssertEqual(limit, 262_144)
    XCTAssertEqual(changes.count, 2, changes.joined(separator: "\n"))
    XCTAssertTrue(changes.last?.contains("with more room 0 datagrams") ?? false)
  }

  /// First ones flood, and datagrams come in between.
  func testAFloodAmongDatagrams() async throws {
    let link = try await Link("among", limit: 262_144)
    let daemon = try await Daemon("--allow", "ip-frag")
    async let arrived = link.send(200)
    try await link.flood(1000, rounds: 50)
    _ = try await arrived
    let limit = try await link.limit()
    try await daemon.stop()
    await link.delete()
    XCTAssertEqual(limit, 262_144)
  }

  func testDatagramsOfIPv6() async throws {
    let link = try await Link("six", limit: 65536)
    let name = "net.ipv6.ip6frag_high_thresh"
    try await link.right.set("net.ipv6.ip6frag_low_thresh", "4096")
    try await link.right.set(name, "65536")
    for (end, device, address) in [(link.left, "v0", "fd09::1"), (link.right, "v1", "fd09::2")] {
      try await execute(
        "ip", "addr", "add", "\(address)/64", "dev", device, "nodad", netns: end.name)
    }
    let daemon = try await Daemon("--allow", "ip-frag")
    func completed() async throws -> Int {
      try await link.right.inside { Int(NamespaceCounters.snmp6("Ip6ReasmOKs") ?? -1) }
    }
    func send() async throws {
      try await link.left.inside {
        guard let sender = try? DatagramSocket(family: AF_INET6) else { return }
        for _ in 0..<50 {
          sender.send(1, to: "fd09::2", 5000, size: 60_000)
          usleep(10_000)
        }
      }
    }
    try await send()
    let before = try await completed()
    try await send()
    let after = try await completed()
    let limit = Int(try await link.right.sysctl(name)) ?? -1
    try await daemon.stop()
    await link.delete()
    XCTAssertEqual(after - before, 50)
    XCTAssertGreaterThan(limit, 65536)
  }

  /// With seconds in place of minutes.
  func testGoesBackWhenQuiet() async throws {
    let link = try await Link("back", limit: 65536)
    let tuner = try await OneTuner {
      IPFrag(
        learningRate: $0,
        times: IPFrag.Times(interval: .milliseconds(200), quiet: .milliseconds(2000)))
    }
    // What is not complete is held for as long.
    try await link.right.set("net.ipv4.ipfrag_time", "1")
    _ = try await link.send(50)
    try await eventually("the limit of before") { try await link.limit() == 65536 }
    await tuner.stop()
    await link.delete()
    XCTAssertTrue(tuner.lines.all.contains { $0.contains("\(Self.high) 65536 -> ") })
    XCTAssertTrue(tuner.lines.all.contains { $0.contains(" -> 65536 ") })
  }
}
