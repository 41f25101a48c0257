import Kernel
import XCTest

@testable import Tuners

/// The policy of conntrack, without a kernel and without waiting.
final class ConntrackPolicyTests: XCTestCase {
  private static let gibibyte: Int64 = 1 << 30
  private let home = NamespaceID(cookie: 7, inode: 77)
  private let own = NamespaceID(cookie: 1, inode: 1)

  private func seen(
    _ scenario: Conntrack.Scenario = .drop, count: Int64 = 65536, limit: Int64 = 65536,
    buckets: Int64 = 16384, refused: Int64 = 0, evicted: Int64 = 0,
    sample: ConntrackTable = ConntrackTable(), in namespace: NamespaceID? = nil,
    free: Int64 = 20 * gibibyte, at seconds: Double = 1000
  ) -> Conntrack.Observation {
    Conntrack.Observation(
      scenario: scenario, drops: 1, count: count, limit: limit, buckets: buckets,
      refused: refused, evicted: evicted, sample: sample, namespace: namespace ?? home,
      freeMemory: free,
      time: UInt64(seconds * 1_000_000_000))
  }

  private func policy(_ level: Int = 4) throws -> Conntrack {
    Conntrack(learningRate: try XCTUnwrap(LearningRate(level)))
  }

  private func isHeld(_ decision: Decision) -> Bool {
    if case .hold = decision { true } else { false }
  }

  /// Decides, and has everything applied: what each becomes.
  private func apply(
    _ policy: inout Conntrack, _ seen: Conntrack.Observation, surveyed: Int64 = 0
  ) -> [Int64] {
    var decision = policy.decide(seen)
    if decision == .survey {
      policy.learn(surveyed: surveyed, for: seen)
      decision = policy.decide(seen)
    }
    guard case .adjust(let adjustments) = decision else { return [] }
    for adjustment in adjustments {
      policy.learn(
        adjustment,
        .applied(
          old: .scalar(adjustment.assumed.number), new: .scalar(adjustment.wanted.number), at: 0))
    }
    return adjustments.map(\.wanted.number)
  }

  func testGrowsWithItsChainsWhenConnectionsAreRefused() throws {
    var policy = try policy()
    XCTAssertEqual(apply(&policy, seen(refused: 1)), [])
    XCTAssertEqual(policy.recheck, .milliseconds(50))
    XCTAssertEqual(apply(&policy, seen(.look, refused: 50, at: 1000.05)), [262_144, 65536])
    XCTAssertEqual(policy.recheck, .seconds(60))
    XCTAssertEqual(
      apply(
        &policy, seen(count: 262_144, limit: 262_144, buckets: 65536, refused: 90, at: 1002)),
      [1 << 20, 262_144])
  }

  func testRulesThatDropRaiseNothing() throws {
    var policy = try policy()
    for second in 0..<100 {
      XCTAssertEqual(
        apply(
          &policy,
          seen(second % 2 == 0 ? .drop : .look, count: 65536, at: 1000 + Double(second))), [])
    }
    XCTAssertNil(policy.recheck)
  }

  func testAFloodThatNobodyAnswersRaisesNothing() throws {
    var policy = try policy()
    _ = policy.decide(seen(refused: 1, evicted: 100))
    XCTAssertTrue(
      isHeld(policy.decide(seen(.look, refused: 20, evicted: 5000, at: 1000.05))))
  }

  func testAnsweredOnesThatMadeRoomMakeItGrow() throws {
    let answered = ConntrackTable(seen: 1000, evictable: 800, answered: 500)
    let flood = ConntrackTable(seen: 1000, evictable: 800, answered: 100)
    for scenario in [Conntrack.Scenario.drop, .poll] {
      var policy = try policy()
      XCTAssertEqual(apply(&policy, seen(scenario, evicted: 100, sample: answered)), [])
      XCTAssertTrue(
        isHeld(policy.decide(seen(.look, evicted: 200, sample: flood, at: 1001))))
      XCTAssertTrue(isHeld(policy.decide(seen(.poll, evicted: 300, at: 1002))), "not known")
      XCTAssertEqual(
        apply(&policy, seen(.poll, count: 1000, evicted: 400, at: 1003)), [], "room again")
      XCTAssertEqual(
        apply(&policy, seen(.poll, evicted: 500, sample: answered, at: 1004)), [262_144, 65536])
    }
  }

  func testATableWithRoomIsNotRemembered() throws {
    var policy = try policy()
    XCTAssertEqual(apply(&policy, seen(.poll, count: 1000, evicted: 100)), [])
    XCTAssertEqual(policy.bases.count, 0)
  }

  func testBoundedByMemory() throws {
    var policy = try policy()
    _ = policy.decide(seen(refused: 1))
    XCTAssertTrue(
      isHeld(policy.decide(seen(.look, refused: 50, free: 32 << 20, at: 1000.05))))
    policy = try self.policy()
    _ = policy.decide(seen(limit: 4 << 20, refused: 1))
    XCTAssertTrue(
      isHeld(policy.decide(seen(.look, limit: 4 << 20, refused: 50, at: 1000.05))),
      "four million are the most")
  }

  func testWithoutTheModuleNothingHappens() throws {
    var policy = try policy()
    XCTAssertEqual(apply(&policy, seen(limit: 0)), [])
    XCTAssertNil(policy.recheck)
  }

  func testGoesBackAfterTenQuietMinutes() throws {
    var policy = try policy()
    _ = policy.decide(seen(refused: 1))
    _ = apply(&policy, seen(.look, refused: 50, at: 1000.05))
    var changes: [Int64] = []
    // The namespace has gone; what is reported is the daemon's own.
    for minute in 1...10 {
      changes += apply(
        &policy,
        seen(
          .look, count: 3, limit: 262_144, buckets: 65536, in: own,
          at: 1000.05 + Double(minute) * 60))
    }
    XCTAssertEqual(changes, [65536, 16384])
    XCTAssertNil(policy.recheck)
  }

  func testWhatIsTrackedAnywhereKeepsItRaised() throws {
    var policy = try policy()
    _ = policy.decide(seen(refused: 1))
    _ = apply(&policy, seen(.look, refused: 50, at: 1000.05))
    for minute in 1...30 {
      XCTAssertEqual(
        apply(
          &policy,
          seen(
            .look, count: 3, limit: 262_144, buckets: 65536, in: own,
            at: 1000 + Double(minute) * 60), surveyed: 60_000), [])
    }
  }

  func testTenThousandNamespacesAreForgotten() throws {
    var policy = try policy()
    for inode in 0..<10_000 {
      _ = policy.decide(seen(in: NamespaceID(cookie: UInt64(inode), inode: UInt32(inode))))
    }
    XCTAssertLessThanOrEqual(policy.bases.count, Conntrack.mostNamespaces)
  }
}
