import XCTest

@testable import Tuners

final class StrategiesTests: XCTestCase {
  private let second: UInt64 = 1_000_000_000

  /// Three ways with these scores, at an event a second; which are in force, each
  /// once as long as it is.
  private func course(
    of scores: (Int, UInt64) -> Double, seconds: UInt64, _ strategies: inout Strategies
  ) -> [Int] {
    var course: [Int] = []
    for time in 1...seconds {
      if strategies.isDue(at: time * second) {
        strategies.learn(score: scores(strategies.current, time), at: time * second)
      }
      if course.last != strategies.current { course.append(strategies.current) }
    }
    return course
  }

  func testEachIsTriedAndTheBestStays() {
    var strategies = Strategies(count: 3)
    let course = course(of: { way, _ in [1, 5, 3][way] }, seconds: 5000, &strategies)
    XCTAssertEqual(course, [0, 1, 2, 1])
    XCTAssertTrue(strategies.isSettled)
    XCTAssertEqual(strategies.scores, [1, 5, 3])
  }

  func testEachHasItsTime() {
    var strategies = Strategies(count: 2)
    XCTAssertFalse(strategies.isDue(at: 1000 * second))
    XCTAssertFalse(strategies.isDue(at: 1029 * second))
    XCTAssertTrue(strategies.isDue(at: 1030 * second))
    strategies.learn(score: 1, at: 1030 * second)
    XCTAssertEqual(strategies.current, 1)
    XCTAssertFalse(strategies.isDue(at: 1059 * second))
    XCTAssertTrue(strategies.isDue(at: 1060 * second))
  }

  /// Scores that differ by less than the noise change nothing.
  func testTheFirstStaysUnlessAnotherIsClearlyBetter() {
    var strategies = Strategies(count: 2)
    XCTAssertEqual(
      course(of: { way, _ in [100, 109][way] }, seconds: 300, &strategies), [0, 1, 0])
    strategies = Strategies(count: 2)
    XCTAssertEqual(course(of: { way, _ in [100, 112][way] }, seconds: 300, &strategies), [0, 1])
  }

  func testTheOthersAreTriedAgainOnlyWhenEvidenceChanges() {
    var strategies = Strategies(count: 2)
    // Noise of a fifth is no change, for hours.
    let steady = course(
      of: { way, time in [1, 5][way] * (time % 2 == 0 ? 1 : 0.85) }, seconds: 20000, &strategies)
    XCTAssertEqual(steady, [0, 1])
    // What was best does half as well: the other one is tried, and is better now.
    var changed = Strategies(count: 2)
    let course = course(
      of: { way, time in time < 2000 ? [1, 5][way] : [4, 2.5][way] }, seconds: 6000, &changed)
    XCTAssertEqual(course, [0, 1, 0])
  }

  func testScoresBelowZeroCompareToo() {
    var strategies = Strategies(count: 3)
    XCTAssertEqual(
      course(of: { way, _ in [-10, -5, -20][way] }, seconds: 300, &strategies), [0, 1, 2, 1])
  }

  /// Events are not in order between processors.
  func testATimeThatGoesBackIsNotDue() {
    var strategies = Strategies(count: 2)
    XCTAssertFalse(strategies.isDue(at: 100 * second))
    XCTAssertFalse(strategies.isDue(at: 10 * second))
  }
}
