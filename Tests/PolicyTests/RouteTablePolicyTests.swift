import Kernel
import State
import XCTest

@testable import Tuners

/// route-table's decisions.
final class RouteTablePolicyTests: XCTestCase {
  private static let second: UInt64 = 1_000_000_000

  private struct Table {
    var policy = RouteTable(learningRate: .standard)
    var maximum: Int64 = 4096
    var threshold: Int64 = 1024
    var time: UInt64 = 100_000_000_000
    var freeMemory: Int64 = 8 << 30

    @discardableResult
    mutating func see(
      _ scenario: RouteTable.Scenario, _ entries: Int64, after seconds: UInt64 = 0
    ) -> Decision {
      time += seconds * RouteTablePolicyTests.second
      let decision = policy.decide(
        RouteTable.Observation(
          scenario: scenario, entries: entries, maximum: maximum, threshold: threshold,
          freeMemory: freeMemory, time: time))
      guard case .adjust(let adjustments) = decision else { return decision }
      for adjustment in adjustments {
        if adjustment.tunable == RouteTable.maximum {
          maximum = adjustment.wanted.number
        } else {
          threshold = adjustment.wanted.number
        }
        policy.learn(
          adjustment,
          .applied(
            old: .scalar(adjustment.assumed.number), new: .scalar(adjustment.wanted.number),
            at: time))
      }
      return decision
    }
  }

  func testGrowsOnlyWhatCollectionLeavesFull() {
    var table = Table()
    table.see(.filling, 3500)
    XCTAssertEqual(table.maximum, 4096)
    table.see(.filling, 4000, after: 1)
    XCTAssertEqual(table.maximum, 16384)
    XCTAssertEqual(table.threshold, 4096)
  }

  func testAFloodThatIsCollectedRaisesNothing() {
    var table = Table()
    for _ in 0..<100 {
      table.see(.filling, 4000)
      table.see(.empty, 100, after: 2)
    }
    XCTAssertEqual(table.maximum, 4096)
  }

  func testItIsBounded() {
    var table = Table()
    for _ in 0..<20 { table.see(.filling, table.maximum, after: 2) }
    XCTAssertEqual(table.maximum, RouteTable.most)
    guard case .hold(_, about: "ceiling") = table.see(.filling, 65_536, after: 2) else {
      return XCTFail("nobody is told why it is not grown")
    }
    var small = Table()
    small.freeMemory = 200 << 20
    for _ in 0..<20 { small.see(.filling, small.maximum, after: 2) }
    XCTAssertEqual(small.maximum, (200 << 20) / 64 / RouteTable.entrySize)
  }

  func testItComesDownToWhatItWas() {
    var table = Table()
    table.see(.filling, 4000)
    table.see(.filling, 4000, after: 1)
    table.see(.empty, 200, after: 1)
    XCTAssertEqual(table.maximum, 16384)
    table.see(.empty, 200, after: 299)
    XCTAssertEqual(table.maximum, 16384)
    table.see(.empty, 200, after: 2)
    XCTAssertEqual(table.maximum, 4096)
    XCTAssertEqual(table.threshold, 1024)
  }

  func testWhatAnEarlierDaemonRaisedComesDown() {
    var table = Table()
    table.maximum = 16384
    table.policy.recall(
      Holding(
        namespace: NamespaceID(cookie: 1, inode: 2), tunable: RouteTable.maximum,
        tuner: RouteTable.name, original: .scalar(4096), written: .scalar(16384),
        previous: .scalar(4096), since: 0, changes: 1, scenario: "", reason: ""),
      at: table.time)
    table.see(.empty, 200)
    table.see(.empty, 200, after: 301)
    XCTAssertEqual(table.maximum, 4096)
    XCTAssertEqual(table.threshold, 1024)
  }

  func testWhatSomeoneElseSetIsNotShrunk() {
    var table = Table()
    table.maximum = 100_000
    for _ in 0..<10 { table.see(.empty, 10, after: 100) }
    XCTAssertEqual(table.maximum, 100_000)
  }

  func testNoLimitIsNoReason() {
    var table = Table()
    table.maximum = Int64(Int32.max)
    XCTAssertEqual(table.see(.filling, 5000, after: 5), .leave("there is no limit"))
    table.maximum = -1
    XCTAssertEqual(table.see(.filling, 5000, after: 5), .leave("there is no limit"))
  }
}
