import Kernel
import XCTest

@testable import Tuners

/// What tcp-buffer does about queues, without a kernel.
final class TCPBufferQueuePolicyTests: XCTestCase {
  /// A path of 20 ms and 20 Mbit/s behind half a megabyte.
  private func seen(
    _ scenario: TCPBuffer.Scenario = .sendQueue, limit: Int64 = 4 << 20, size: Int64? = nil,
    inFlight: Int64 = 500_000, rtt: Int64 = 200_000, rttMin: Int64 = 20_000, need: Int64 = 87_000,
    initial: Int64 = 16_384, carried: Int64 = 50_000, peer: Int64 = 1, seconds: Double
  ) -> TCPBuffer.Observation {
    TCPBuffer.Observation(
      scenario: scenario, limit: limit, size: size ?? limit, inFlight: inFlight, window: 0,
      rtt: rtt, rttMin: rttMin, need: need, initial: initial, carried: carried, memory: 10,
      memoryLimits: [287_898, 383_867, 575_796], freeMemory: 20 << 30,
      peer: PeerAddress(high: 0, low: peer), localPort: 5201, remotePort: 40000,
      time: UInt64(seconds * 1e9))
  }

  @discardableResult
  private func apply(
    _ decision: Decision, to policy: inout TCPBuffer, at seconds: Double
  ) -> [Adjustment] {
    guard case .adjust(let all) = decision else { return [] }
    for adjustment in all {
      policy.learn(
        adjustment,
        .applied(
          old: .scalar(adjustment.assumed.number), new: .scalar(adjustment.wanted.number),
          at: UInt64(seconds * 1e9)))
    }
    return all
  }

  /// Events as the kernel side folds them, of a queue that stands for 3 seconds.
  private func stand(
    _ policy: inout TCPBuffer, from start: Double,
    _ make: (Double) -> TCPBuffer.Observation
  ) -> [Adjustment] {
    [0, 0.02, 0.06, 0.3, 1.3, 2.6].flatMap {
      apply(policy.decide(make(start + $0)), to: &policy, at: start + $0)
    }
  }

  private func lowered() -> TCPBuffer {
    var policy = TCPBuffer(learningRate: .standard)
    let all = stand(&policy, from: 100) { seen(seconds: $0) }
    XCTAssertEqual(all.map(\.wanted), [.maximum(90112)])
    return policy
  }

  func testComesDownToWhatIsNeededWhenAQueueLasts() throws {
    var policy = TCPBuffer(learningRate: .standard)
    XCTAssertEqual(apply(policy.decide(seen(seconds: 1)), to: &policy, at: 1), [])
    XCTAssertEqual(apply(policy.decide(seen(seconds: 1.5)), to: &policy, at: 1.5), [])
    _ = lowered()
  }

  func testAShortQueueIsNoReason() throws {
    var policy = TCPBuffer(learningRate: .standard)
    for round in 0..<20 {
      let start = Double(round) * 20
      for offset in [0, 0.02, 0.06, 0.3, 1.3] {
        let decision = policy.decide(seen(seconds: start + offset))
        XCTAssertEqual(apply(decision, to: &policy, at: start), [])
      }
    }
  }

  func testWhatSomePathNeedsStays() throws {
    var policy = TCPBuffer(learningRate: .standard)
    XCTAssertEqual(stand(&policy, from: 0) { seen(need: 4_000_000, seconds: $0) }, [])
    var other = TCPBuffer(learningRate: .standard)
    let all = stand(&other, from: 0) { seen(need: 1_000_000, seconds: $0) }
    XCTAssertGreaterThanOrEqual(try XCTUnwrap(all.first?.wanted.number), 1_000_000)
  }

  func testNeverBelowTheLeast() throws {
    var policy = TCPBuffer(learningRate: .standard)
    let all = stand(&policy, from: 0) { seen(need: 1, seconds: $0) }
    XCTAssertEqual(all.first?.wanted.number, 65536)
  }

  func testTheStartingSizeComesDownWithIt() throws {
    var policy = TCPBuffer(learningRate: .standard)
    let all = stand(&policy, from: 0) { seen(.receiveQueue, initial: 131_072, seconds: $0) }
    XCTAssertEqual(all.map(\.tunable), [TCPBuffer.receiveMaximum, TCPBuffer.receiveMaximum])
    XCTAssertEqual(all.map(\.wanted), [.maximum(90112), .initial(90112)])
  }

  func testTheSamePathDoesNotBringItUpAgain() throws {
    var policy = lowered()
    for round in 0..<50 {
      let time = 110 + Double(round)
      // Held back, as it has to be; sometimes the round trip looks short.
      let held = seen(
        .sendLimit, limit: 90112, inFlight: 52_000, rtt: round % 3 == 0 ? 20_500 : 26_000,
        seconds: time)
      XCTAssertEqual(apply(policy.decide(held), to: &policy, at: time), [])
    }
  }

  func testAFasterPathDoes() throws {
    var policy = lowered()
    func held(_ seconds: Double, peer: Int64) -> TCPBuffer.Observation {
      seen(.sendLimit, limit: 90112, inFlight: 80_000, rtt: 20_100, peer: peer, seconds: seconds)
    }
    for peer: Int64 in [1, 2] {
      var policy = policy
      XCTAssertEqual(apply(policy.decide(held(110, peer: peer)), to: &policy, at: 110), [])
      XCTAssertEqual(
        apply(policy.decide(held(110.1, peer: peer)), to: &policy, at: 110.1), [], "starting")
      XCTAssertEqual(
        apply(policy.decide(held(110.7, peer: peer)), to: &policy, at: 110.7).count, 1)
    }
    policy = lowered()
    let queued = seen(
      .sendLimit, limit: 90112, inFlight: 80_000, rtt: 24_000, peer: 2, seconds: 112)
    XCTAssertEqual(apply(policy.decide(queued), to: &policy, at: 112), [])
  }

  func testEachReversalDoublesTheWait() throws {
    var policy = TCPBuffer(learningRate: .standard)
    var limit: Int64 = 4 << 20
    var lowerings: [Double] = []
    var time = 0.0
    // A slow path and a fast one, in turns, ten minutes long.
    while time < 600 {
      for offset in [0, 0.02, 0.06, 0.3, 1.3, 2.6, 4, 4.1, 5.0, 5.1, 6.0] {
        let now = time + offset
        let event =
          offset < 3
          ? seen(limit: limit, seconds: now)
          : seen(
            .sendLimit, limit: limit, inFlight: limit / 10 * 9, rtt: 20_000, peer: 2, seconds: now)
        for adjustment in apply(policy.decide(event), to: &policy, at: now) {
          if adjustment.wanted.number < limit { lowerings.append(now) }
          limit = adjustment.wanted.number
        }
      }
      time += 10
    }
    XCTAssertLessThanOrEqual(lowerings.count, 6, "\(lowerings)")
    XCTAssertGreaterThan(lowerings.count, 2)
    for (gap, next) in zip(zip(lowerings, lowerings.dropFirst()), lowerings.dropFirst(2)) {
      XCTAssertGreaterThan(next - gap.1, gap.1 - gap.0, "\(lowerings)")
    }
  }

  func testAQueueOfOthersIsLeftToThem() throws {
    var policy = lowered()
    let all = stand(&policy, from: 120) {
      seen(limit: 90112, inFlight: 80_000, rtt: 100_000, need: 60_000, seconds: $0)
    }
    XCTAssertEqual(all.first?.wanted.number, 4 << 20, "back, since it brought nothing")
  }

  func testConnectionsOlderThanTheChangeSayNothing() throws {
    var policy = lowered()
    let all = stand(&policy, from: 200) {
      seen(limit: 90112, size: 4 << 20, need: 1, seconds: $0)
    }
    XCTAssertEqual(all, [])
  }
}
