import Kernel
import XCTest

@testable import Tuners

final class @Type@PolicyTests: XCTestCase {
  private func wanted(_ limit: Int64, level: Int = 4) throws -> Int64? {
    var policy = @Type@(learningRate: try XCTUnwrap(LearningRate(level)))
    let decision = policy.decide(.init(scenario: .refused, limit: limit, refused: 3))
    guard case .adjust(let adjustments) = decision else { return nil }
    return adjustments.first?.wanted.number
  }

  func testDoubles() throws {
    XCTAssertEqual(try wanted(20), 40)
    XCTAssertEqual(try wanted(20, level: 0), 25)
  }

  func testAlwaysGoesUp() throws {
    XCTAssertEqual(try wanted(0), 1)
    XCTAssertEqual(try wanted(1, level: 0), 2)
  }

  func testIsBounded() throws {
    XCTAssertEqual(try wanted(@Type@.most - 1), @Type@.most)
    XCTAssertNil(try wanted(@Type@.most))
    XCTAssertNil(try wanted(.max))
  }
}
