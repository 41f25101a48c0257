import Kernel
import XCTest

@testable import Tuners

/// The policy of ip-frag, without a kernel and without waiting.
final class IPFragPolicyTests: XCTestCase {
  private static let gibibyte: Int64 = 1 << 30

  /// `refused` datagrams of 15,000 bytes in ten fragments each, of which
  /// `first` have come with their first and `last` with their last one.
  private func seen(
    _ scenario: IPFrag.Scenario = .refused, _ family: IPFrag.Family = .v4, refused: Int64 = 0,
    first: Int64? = nil, last: Int64? = nil, bytes: Int64? = nil, limit: Int64 = 4 << 20,
    held: Int64? = nil, waiting: Int64 = 100, completed: Int64 = 0,
    free: Int64 = 20 * gibibyte, at seconds: Double = 1000
  ) -> IPFrag.Observation {
    IPFrag.Observation(
      scenario: scenario, family: family, limit: limit, held: held ?? limit, waiting: waiting,
      counts: IPFrag.Counts(
        refusals: refused * 10, first: first ?? refused, last: last ?? refused,
        bytes: bytes ?? refused * 15_000, whole: (last ?? refused) * 15_000, completed: completed),
      freeMemory: free, time: UInt64(seconds * 1_000_000_000))
  }

  private func policy(_ level: Int = 4) throws -> IPFrag {
    IPFrag(learningRate: try XCTUnwrap(LearningRate(level)))
  }

  private func adjustments(_ decision: Decision) -> [Adjustment] {
    guard case .adjust(let adjustments) = decision else { return [] }
    return adjustments
  }

  private func isHeld(_ decision: Decision) -> Bool {
    if case .hold = decision { true } else { false }
  }

  /// Decides, and has everything applied: what the limit becomes.
  private func apply(_ policy: inout IPFrag, _ seen: IPFrag.Observation) -> Int64? {
    let adjustments = adjustments(policy.decide(seen))
    for adjustment in adjustments {
      policy.learn(
        adjustment,
        .applied(
          old: .scalar(adjustment.assumed.number), new: .scalar(adjustment.wanted.number), at: 0))
    }
    return adjustments.first?.wanted.number
  }

  func testWholeDatagramsThatAreRefusedGetRoom() throws {
    var policy = try policy()
    XCTAssertNil(apply(&policy, seen()))
    XCTAssertEqual(policy.recheck, .milliseconds(50))
    XCTAssertEqual(apply(&policy, seen(.look, refused: 20, at: 1000.05)), 16 << 20)
    // It helps, and more is refused: another step.
    XCTAssertEqual(
      apply(
        &policy, seen(.look, refused: 40, limit: 16 << 20, completed: 500, at: 1000.5)), 64 << 20)
    XCTAssertTrue(
      isHeld(
        policy.decide(seen(.look, refused: 60, limit: 64 << 20, completed: 900, at: 1001))),
      "64 MiB are the most")
  }

  func testTheTwoFamiliesAreTwo() throws {
    var policy = try policy()
    _ = policy.decide(seen())
    _ = policy.decide(seen(.refused, .v6))
    let adjustment = adjustments(policy.decide(seen(.look, .v6, refused: 9, at: 1000.1))).first
    XCTAssertEqual(adjustment?.tunable.name, "net.ipv6.ip6frag_high_thresh")
  }

  func testAFloodOfFirstFragmentsRaisesNothing() throws {
    var policy = try policy()
    var held = 0
    for tenth in 0..<600 {
      let decision = policy.decide(
        seen(
          .refused, refused: Int64(tenth) * 1000, last: 0, at: 1000 + Double(tenth) / 10))
      XCTAssertEqual(adjustments(decision), [])
      if isHeld(decision) { held += 1 }
    }
    XCTAssertGreaterThan(held, 0, "and it says so")
  }

  /// First and last ones, and nothing in between.
  func testAFloodOfFirstAndLastFragmentsRaisesNothing() throws {
    var policy = try policy()
    for tenth in 0..<100 {
      let refused = Int64(tenth) * 1000
      XCTAssertEqual(
        adjustments(
          policy.decide(
            seen(.refused, refused: refused, bytes: refused * 3000, at: 1000 + Double(tenth) / 10))),
        [])
    }
  }

  func testARaiseThatBringsNothingIsTakenBackAndNotRepeated() throws {
    var policy = try policy()
    _ = policy.decide(seen())
    XCTAssertEqual(apply(&policy, seen(.look, refused: 20, at: 1000.1)), 16 << 20)
    XCTAssertNil(
      apply(&policy, seen(.look, refused: 40, limit: 16 << 20, waiting: 900, at: 1000.5)))
    XCTAssertEqual(
      apply(
        &policy,
        seen(.look, refused: 60, limit: 16 << 20, waiting: 900, completed: 3, at: 1001.2)),
      4 << 20)
    for second in 2..<60 {
      XCTAssertNil(
        apply(&policy, seen(.refused, refused: Int64(second) * 100, at: 1000 + Double(second))))
    }
    // Tried again later, and barred for twice as long.
    var times: [Int] = []
    var limit: Int64 = 4 << 20
    var number: Int64 = 10_000
    for second in 60..<400 {
      number += 100
      if let new = apply(
        &policy,
        seen(
          .refused, refused: number, limit: limit, waiting: limit / 10_000,
          at: 1000 + Double(second)))
      {
        if new > limit { times.append(second) }
        limit = new
      }
    }
    XCTAssertEqual(times.count, 2)
    XCTAssertGreaterThan((times.last ?? 0) - (times.first ?? 0), 115)
  }

  func testNothingToJudgeByIsNoJudgement() throws {
    var policy = try policy()
    _ = policy.decide(seen())
    _ = apply(&policy, seen(.look, refused: 20, at: 1000.1))
    XCTAssertNil(apply(&policy, seen(.look, refused: 20, limit: 16 << 20, at: 1002)))
    XCTAssertEqual(policy.recheck, .seconds(60))
  }

  /// What was refused while the raise was under way says nothing of it.
  func testASlowMachineJudgesByWhatComesAfterTheRaise() throws {
    var policy = try policy()
    _ = policy.decide(seen())
    _ = apply(&policy, seen(.look, refused: 20, at: 1000.1))
    XCTAssertNil(
      apply(&policy, seen(.look, refused: 30, limit: 16 << 20, held: 4 << 20, at: 1002)))
    XCTAssertEqual(
      apply(
        &policy,
        seen(.refused, refused: 60, limit: 16 << 20, waiting: 101, completed: 90, at: 1003)),
      64 << 20)
  }

  func testGoesBackAfterTenQuietMinutes() throws {
    var policy = try policy()
    _ = policy.decide(seen())
    _ = apply(&policy, seen(.look, refused: 20, at: 1000.1))
    var changes: [Int64] = []
    for minute in 1...10 {
      let look = seen(
        .look, refused: 20, limit: changes.last ?? 16 << 20, held: 0, waiting: 0, completed: 500,
        at: 1001 + Double(minute) * 60)
      if let new = apply(&policy, look) { changes.append(new) }
    }
    XCTAssertEqual(changes, [4 << 20])
    XCTAssertNil(policy.recheck)
  }

  func testWhatIsHeldKeepsItRaised() throws {
    var policy = try policy()
    _ = policy.decide(seen())
    _ = apply(&policy, seen(.look, refused: 20, at: 1000.1))
    for minute in 1...20 {
      XCTAssertNil(
        apply(
          &policy,
          seen(
            .look, refused: 20, limit: 16 << 20, held: 3 << 20, completed: 500,
            at: 1000 + Double(minute) * 60)))
    }
  }

  func testLittleMemoryRaisesNothing() throws {
    var policy = try policy()
    _ = policy.decide(seen())
    XCTAssertTrue(isHeld(policy.decide(seen(.look, refused: 20, free: 256 << 20, at: 1000.1))))
  }

  func testNonsenseIsLeft() throws {
    for limit in [Int64.min, -1, 0, .max] {
      var policy = try policy()
      _ = policy.decide(seen(limit: limit))
      XCTAssertEqual(adjustments(policy.decide(seen(.look, refused: 50, limit: limit))), [])
    }
  }
}
