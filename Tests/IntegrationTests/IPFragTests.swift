import Foundation
import Kernel
import TestSupport
import Tuners
import XCTest

/// ip-frag with real fragments, over a veth pair between two namespaces.
final class IPFragTests: IPFragTestCase {
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
    print(
      "ip-frag: of 5 and 10 each: \(without) without, \(with) with the daemon; \(fails) refused")
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
