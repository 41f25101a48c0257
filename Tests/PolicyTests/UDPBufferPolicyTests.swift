import Kernel
import XCTest

@testable import Tuners

/// The policy of udp-buffer, without a kernel and without waiting.
final class UDPBufferPolicyTests: XCTestCase {
  private static let gibibyte: Int64 = 1 << 30
  private let home = NamespaceID(cookie: 7, inode: 77)

  /// A socket of the kernel's own size, on a machine with plenty of memory.
  private func seen(
    _ scenario: UDPBuffer.Scenario, socket: Int64 = 1, limit: Int64 = 212_992,
    locked: Bool = false, queued: Int64 = 0, drops: Int64 = 1000, bytes: Int64 = 768_000,
    broadcast: Int64 = 0, held: Int64 = 100, memory: [Int64] = [500_000, 700_000, 1_000_000],
    free: Int64 = 20 * gibibyte, at seconds: Double = 1000
  ) -> UDPBuffer.Observation {
    UDPBuffer.Observation(
      scenario: scenario, socket: socket, limit: limit, isLocked: locked, port: 53,
      queued: queued, drops: drops, bytes: bytes, broadcast: broadcast, held: held,
      memoryLimits: memory, namespace: home, freeMemory: free,
      time: UInt64(seconds * 1_000_000_000))
  }

  private func policy(_ level: Int = 4) throws -> UDPBuffer {
    UDPBuffer(learningRate: try XCTUnwrap(LearningRate(level)))
  }

  private func adjustments(_ decision: Decision) -> [Adjustment] {
    guard case .adjust(let adjustments) = decision else { return [] }
    return adjustments
  }

  private func isHeld(_ decision: Decision) -> Bool {
    if case .hold = decision { true } else { false }
  }

  /// Decides, and has everything applied: `name wanted` of each.
  private func apply(_ policy: inout UDPBuffer, _ seen: UDPBuffer.Observation) -> [String] {
    adjustments(policy.decide(seen)).map { adjustment in
      func value(_ part: SysctlPart) -> SysctlValue {
        if case .whole(let value) = part { value } else { .scalar(part.number) }
      }
      policy.learn(
        adjustment,
        .applied(old: value(adjustment.assumed), new: value(adjustment.wanted), at: 0))
      return "\(adjustment.tunable.name) \(adjustment.wanted)"
    }
  }

  // MARK: Growing

  func testASocketThatIsReadGrowsByWhatItLost() throws {
    var policy = try policy()
    XCTAssertEqual(apply(&policy, seen(.full)), [], "not before the queue was looked at")
    XCTAssertEqual(policy.recheck, .milliseconds(20))
    // Half as much again as 212,992 and 768,000, in whole pages.
    XCTAssertEqual(
      apply(&policy, seen(.look, at: 1000.02)), ["net.core.rmem_default 1470464"])
    XCTAssertEqual(policy.recheck, .seconds(60))
  }

  func testOneThatAskedForMoreRaisesWhatMayBeAskedFor() throws {
    var policy = try policy()
    _ = policy.decide(seen(.full, limit: 425_984, locked: true))
    let adjustment = try XCTUnwrap(
      adjustments(policy.decide(seen(.look, limit: 425_984, locked: true))).first)
    XCTAssertEqual(adjustment.tunable.name, "net.core.rmem_max")
    XCTAssertEqual(adjustment.assumed, .maximum(212_992), "SO_RCVBUF gives the double")
    XCTAssertEqual(adjustment.wanted, .maximum(892_928))
  }

  func testAStepIsBoundedByTheLearningRateAndByMemory() throws {
    for (level, most) in [(4, Int64(8)), (3, 4), (2, 2)] {
      var policy = try policy(level)
      _ = policy.decide(seen(.full, bytes: 1 << 40))
      let step = adjustments(policy.decide(seen(.look, bytes: 1 << 40))).first?.wanted.number
      XCTAssertEqual(step, 212_992 * most & ~4095)
    }
    var policy = try policy()
    _ = policy.decide(seen(.full, limit: 8 << 20))
    XCTAssertTrue(isHeld(policy.decide(seen(.look, limit: 8 << 20))), "8 MiB are the most")
    policy = try self.policy()
    _ = policy.decide(seen(.full, free: 13 << 20))
    XCTAssertTrue(isHeld(policy.decide(seen(.look, free: 13 << 20))), "no memory to give")
    policy = try self.policy()
    _ = policy.decide(seen(.full, held: 700_000))
    XCTAssertEqual(adjustments(policy.decide(seen(.look, held: 700_000))), [], "under pressure")
  }

  func testNonsenseIsLeft() throws {
    for limit in [Int64.min, -1, 0, 1, .max] {
      for bytes in [Int64.min, -1, 0] {
        var policy = try policy()
        _ = policy.decide(seen(.full, limit: limit, bytes: bytes))
        for adjustment in adjustments(policy.decide(seen(.look, limit: limit, bytes: bytes))) {
          XCTAssertTrue(adjustment.tunable.bounds.contains(adjustment.wanted.number))
        }
      }
    }
  }

  // MARK: Other causes

  func testAQueueThatNeverRunsEmpty() throws {
    var policy = try policy()
    _ = policy.decide(seen(.full))
    for time in stride(from: 1000.02, to: 1002, by: 0.3) {
      XCTAssertEqual(policy.decide(seen(.look, queued: 200_000, at: time)) == .adjust([]), false)
      XCTAssertEqual(adjustments(policy.decide(seen(.look, queued: 200_000, at: time))), [])
    }
    XCTAssertTrue(isHeld(policy.decide(seen(.look, queued: 200_000, at: 1002.1))))
    // That the flood ends, and the queue with it, is no sign of a fast reader.
    XCTAssertEqual(adjustments(policy.decide(seen(.look, at: 1003))), [])
    _ = policy.decide(seen(.full, at: 1004))
    XCTAssertEqual(adjustments(policy.decide(seen(.look, at: 1004.1))), [])
    XCTAssertNil(policy.recheck, "no timer runs for it")
  }

  func testBroadcastsRaiseNothing() throws {
    var policy = try policy()
    _ = policy.decide(seen(.full, broadcast: 900))
    XCTAssertTrue(isHeld(policy.decide(seen(.look, broadcast: 900))))
  }

  func testOnlySocketsThatTheRaiseReachesCountForTheNext() throws {
    var policy = try policy()
    _ = policy.decide(seen(.full))
    _ = apply(&policy, seen(.look))
    for second in 1..<30 {
      let time = 1000 + Double(second)
      XCTAssertTrue(isHeld(policy.decide(seen(.full, at: time))), "it has to be opened anew")
      XCTAssertEqual(adjustments(policy.decide(seen(.look, at: time + 0.1))), [])
    }
    // Its successor, in the same place.
    _ = policy.decide(seen(.full, limit: 1_470_464, at: 1040))
    XCTAssertEqual(
      apply(&policy, seen(.look, limit: 1_470_464, at: 1040.1)), ["net.core.rmem_default 3354624"])
  }

  func testASizeOfItsOwnChoiceIsNotTriedAgain() throws {
    var policy = try policy()
    _ = policy.decide(seen(.full, limit: 100_000, locked: true))
    let adjustment = try XCTUnwrap(
      adjustments(policy.decide(seen(.look, limit: 100_000, locked: true))).first)
    policy.learn(adjustment, .refused(.stale(current: .scalar(212_992))))
    _ = policy.decide(seen(.full, limit: 100_000, locked: true, at: 1001))
    XCTAssertEqual(
      adjustments(policy.decide(seen(.look, limit: 100_000, locked: true, at: 1001.1))), [])
    XCTAssertNil(policy.recheck)
  }

  func testTenThousandSocketsAreForgotten() throws {
    var policy = try policy()
    for socket in 0..<10_000 { _ = policy.decide(seen(.full, socket: Int64(socket))) }
    XCTAssertLessThanOrEqual(policy.candidates.count, UDPBuffer.mostCandidates)
  }

  func testManySleepersDoNotFillTheLog() throws {
    var policy = try policy()
    var held = 0
    for socket in 1...60 {
      _ = policy.decide(seen(.full, socket: Int64(socket)))
      var look = seen(.look, socket: Int64(socket), queued: 212_000, at: 1003)
      look.port = Int64(socket)
      if isHeld(policy.decide(look)) { held += 1 }
    }
    XCTAssertEqual(held, 10)
  }

  // MARK: The memory of UDP

  func testMemoryGrowsInProportionAndIsBounded() throws {
    var policy = try policy()
    let small: [Int64] = [100, 200, 400]
    _ = policy.decide(seen(.memory, held: 390, memory: small))
    XCTAssertEqual(
      apply(&policy, seen(.look, held: 390, memory: small)), ["net.ipv4.udp_mem 400 800 1600"])
    _ = policy.decide(seen(.memory, held: 1500, memory: [400, 800, 1600], at: 1001))
    XCTAssertEqual(
      apply(&policy, seen(.look, held: 1500, memory: [400, 800, 1600], at: 1001)),
      ["net.ipv4.udp_mem 800 1600 3200"], "eight times what it was at most")
    _ = policy.decide(seen(.memory, held: 3100, memory: [800, 1600, 3200], at: 1002))
    XCTAssertTrue(
      isHeld(policy.decide(seen(.look, held: 3100, memory: [800, 1600, 3200], at: 1002))))
  }

  func testBuffersGoBackWhereMemoryCannotGrow() throws {
    var policy = try policy()
    _ = policy.decide(seen(.full))
    _ = apply(&policy, seen(.look))
    let short: [Int64] = [100, 200, 400]
    _ = policy.decide(seen(.memory, socket: 2, held: 390, memory: short, free: 0, at: 1001))
    XCTAssertEqual(
      apply(&policy, seen(.look, socket: 2, held: 390, memory: short, free: 0, at: 1001.1)),
      ["net.core.rmem_default 212992"])
  }

  // MARK: Back to what it was

  func testGoesBackAfterTenQuietMinutes() throws {
    var policy = try policy()
    _ = policy.decide(seen(.full))
    _ = apply(&policy, seen(.look))
    var changes: [String] = []
    for minute in 1...10 {
      changes += apply(&policy, seen(.report, socket: 0, limit: 0, at: 1000 + Double(minute) * 60))
    }
    XCTAssertEqual(changes, ["net.core.rmem_default 212992"])
    XCTAssertNil(policy.recheck)
    // Needed again: twice as long.
    _ = policy.decide(seen(.full, socket: 3, at: 1700))
    XCTAssertEqual(apply(&policy, seen(.look, socket: 3, at: 1700)).count, 1)
    XCTAssertEqual(apply(&policy, seen(.report, at: 2300)), [])
    XCTAssertEqual(apply(&policy, seen(.report, at: 2800)), ["net.core.rmem_default 212992"])
  }

  func testDropsKeepItRaised() throws {
    var policy = try policy()
    _ = policy.decide(seen(.full))
    _ = apply(&policy, seen(.look))
    for minute in 1...30 {
      _ = policy.decide(seen(.full, at: 1000 + Double(minute) * 60))
      XCTAssertEqual(apply(&policy, seen(.report, at: 1030 + Double(minute) * 60)), [])
    }
  }
}
