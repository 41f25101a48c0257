import TestSupport
import Tuners
import XCTest

/// neigh with packets that wait while a neighbour is asked for its address.
final class NeighQueueTests: IntegrationTestCase {
  private static let queue = "net.ipv4.neigh.h0/7.unres_qlen_bytes"
  /// More than may wait, and fewer than netdev_max_backlog takes at once.
  private static let count = 900

  private func discarded() throws -> Int { try Neighbours.counter("unresolved_discards") }

  /// The network cannot be reached for a moment: what is sent meanwhile waits, and
  /// arrives if there is room for it.
  func testPacketsThatWaitForAnAddressAreNotLost() async throws {
    let link = try await BridgedPair()
    let usual = try await link.host.sysctl(Self.queue)
    let atFirst = try discarded()
    let without = try await link.sendUnanswered(Self.count, to: 1)
    let lost = try discarded() - atFirst
    XCTAssertLessThan(without, Self.count / 2, "the queue was no limit")
    XCTAssertEqual(lost, Self.count - without, "lost for another reason")

    let daemon = try await Daemon("-a", "neigh", "--rollback")
    _ = try await link.sendUnanswered(Self.count, to: 2)
    let line = try await daemon.line(containing: "\(Self.queue) \(usual) -> ")
    let raised = try await Int(link.host.sysctl(Self.queue)) ?? 0
    let before = try discarded()
    let with = try await link.sendUnanswered(Self.count, to: 3)
    let stillLost = try discarded() - before
    try await daemon.stop()
    let after = try await link.host.sysctl(Self.queue)
    await link.delete()
    print(
      "neigh: of \(Self.count) datagrams lost while an address was asked for: \(lost) without,"
        + " \(stillLost) with the daemon, which let \(raised) bytes wait")
    XCTAssertEqual(with, Self.count)
    XCTAssertEqual(stillLost, 0)
    XCTAssertTrue(line.contains("packets were lost"), line)
    XCTAssertLessThanOrEqual(raised, 4 << 20)
    XCTAssertEqual(after, usual, "rolled back")
    let counts = daemon.lines.first { $0.contains("neigh: arp_cache: ") }
    XCTAssertNotNil(counts, "the counts before and after, at the end")
  }

  /// Whoever floods an address that nobody has gets no more room.
  func testLongANeighbourThatNeverAnswersGetsNoMoreRoom() async throws {
    let link = try await BridgedPair()
    let usual = try await link.host.sysctl(Self.queue)
    let atFirst = try discarded()
    let daemon = try await Daemon("-a", "neigh")
    // It is given up after three seconds, and asked for again.
    for _ in 1...4 {
      try await link.sendToNobody(Self.count)
      try await Task.sleep(for: .seconds(1))
    }
    let lost = try discarded() - atFirst
    let after = try await link.host.sysctl(Self.queue)
    try await daemon.stop()
    await link.delete()
    XCTAssertGreaterThan(lost, Self.count, "nothing was lost")
    XCTAssertEqual(after, usual)
  }

  /// With seconds in place of minutes.
  func testLongTheQueueComesDownAgain() async throws {
    let tuner = try await OneTuner {
      Neigh(
        learningRate: $0, times: Neigh.Times(look: .milliseconds(200), keep: .seconds(2)))
    }
    let link = try await BridgedPair()
    let usual = try await link.host.sysctl(Self.queue)
    _ = try await link.sendUnanswered(Self.count, to: 1)
    try await eventually("a longer queue") { try await link.host.sysctl(Self.queue) != usual }
    try await eventually("the usual queue") { try await link.host.sysctl(Self.queue) == usual }
    await tuner.stop()
    await link.delete()
  }
}
