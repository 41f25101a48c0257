import Kernel
import XCTest

@testable import Tuners

/// The policy of tcp-start, without a kernel.
final class TCPStartPolicyTests: XCTestCase {
  /// Counts in which `many` connections needed the size with that index.
  private func counts(_ many: Double, at index: Int) -> [Double] {
    var counts = [Double](repeating: 0, count: TCPStart.sizes.count)
    counts[index] = many
    return counts
  }

  private func seen(
    send: [Double]? = nil, receive: [Double]? = nil, sendSize: Int64 = 16384,
    receiveSize: Int64 = 131_072, maximum: Int64 = 64 << 20, port: Int64 = 80,
    sockets: Int64 = 100, memory: Int64 = 10, memoryLow: Int64 = 287_898, seconds: UInt64 = 1
  ) -> TCPStart.Observation {
    let none = counts(0, at: 0)
    return TCPStart.Observation(
      port: port, isOutgoing: false, count: 32,
      send: .init(grown: 32, counts: send ?? none, size: sendSize, maximum: maximum),
      receive: .init(grown: 32, counts: receive ?? none, size: receiveSize, maximum: maximum),
      sockets: sockets, memory: memory, memoryLow: memoryLow, time: seconds * 1_000_000_000)
  }

  private func policy(_ level: Int = 4) throws -> TCPStart {
    TCPStart(learningRate: try XCTUnwrap(LearningRate(level)))
  }

  private func wanted(_ decision: Decision) -> [Int64] {
    guard case .adjust(let adjustments) = decision else { return [] }
    return adjustments.map(\.wanted.number)
  }

  private func apply(_ decision: Decision, to policy: inout TCPStart) {
    guard case .adjust(let adjustments) = decision else { return }
    for one in adjustments {
      policy.learn(one, .applied(old: .scalar(0), new: .scalar(0), at: 0))
    }
  }

  func testSizesAreTwoAnOctave() {
    XCTAssertEqual(TCPStart.sizes.prefix(4), [32768, 49152, 65536, 98304])
    XCTAssertEqual(TCPStart.sizes.last, 6 << 20)
  }

  func testStartsWithWhatMostNeed() throws {
    var policy = try policy()
    let decision = policy.decide(seen(send: counts(32, at: 8), receive: counts(32, at: 10)))
    guard case .adjust(let adjustments) = decision else { return XCTFail("no adjustment") }
    XCTAssertEqual(adjustments.map(\.wanted), [.initial(524_288), .initial(1 << 20)])
    XCTAssertEqual(adjustments.map(\.assumed), [.initial(16384), .initial(131_072)])
    XCTAssertEqual(adjustments.map(\.tunable.name), ["net.ipv4.tcp_wmem", "net.ipv4.tcp_rmem"])
  }

  func testFewLargeOnesAreLeftToGrow() throws {
    var policy = try policy()
    var mixed = counts(62, at: 3)
    mixed[14] = 2
    XCTAssertEqual(wanted(policy.decide(seen(send: mixed))), [98304])
  }

  func testFewConnectionsSayNothing() throws {
    var policy = try policy()
    XCTAssertEqual(wanted(policy.decide(seen(send: counts(20, at: 8)))), [])
  }

  func testNeverTheMaximumNorMoreThanTheMemoryHasForAll() throws {
    var policy = try policy()
    let many = counts(32, at: 15)
    XCTAssertEqual(wanted(policy.decide(seen(send: many, maximum: 1 << 20))), [1 << 19])
    XCTAssertEqual(wanted(policy.decide(seen(send: many, sockets: 1))), [TCPStart.most])
    // 1 GiB until TCP saves memory: a quarter of it for a thousand sockets.
    XCTAssertEqual(
      wanted(policy.decide(seen(send: many, sockets: 1024, memoryLow: 1 << 18))), [1 << 18])
    XCTAssertEqual(wanted(policy.decide(seen(send: many, sockets: 1_000_000))), [])
    XCTAssertEqual(wanted(policy.decide(seen(send: many, memory: 300_000))), [])
  }

  func testCautiousSteps() throws {
    var policy = try policy(0)
    XCTAssertEqual(wanted(policy.decide(seen(receive: counts(32, at: 10)))), [163_840])
  }

  func testComesDownToTheOriginalAfterAWhile() throws {
    var policy = try policy()
    apply(policy.decide(seen(send: counts(32, at: 10))), to: &policy)
    var lowered: [Int64] = []
    for second in stride(from: UInt64(10), through: 400, by: 10) {
      let little = seen(send: counts(32, at: 0), sendSize: 1 << 20, seconds: second)
      lowered = wanted(policy.decide(little))
      if !lowered.isEmpty {
        XCTAssertGreaterThan(second, 300)
        break
      }
    }
    XCTAssertEqual(lowered, [32768])
  }

  func testItIsNotLoweredBelowWhatItFound() throws {
    var policy = try policy()
    for second in stride(from: UInt64(1), through: 900, by: 10) {
      let little = seen(send: counts(32, at: 0), sendSize: 1 << 20, seconds: second)
      XCTAssertEqual(wanted(policy.decide(little)), [])
    }
  }

  func testServicesAreBounded() throws {
    var policy = try policy()
    for port in 1...1000 {
      _ = policy.decide(seen(port: Int64(port), seconds: UInt64(port)))
    }
    XCTAssertEqual(policy.knownServices, TCPStart.mostServices)
  }
}
