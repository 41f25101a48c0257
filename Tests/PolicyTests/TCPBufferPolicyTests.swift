import Kernel
import XCTest

@testable import Tuners

/// The policy of tcp-buffer, without a kernel.
final class TCPBufferPolicyTests: XCTestCase {
  private static let gibibyte: Int64 = 1 << 30

  /// A send buffer that is the limit on an idle path of 20 ms, on a machine
  /// with plenty of memory.
  private func seen(
    _ scenario: TCPBuffer.Scenario = .sendLimit, limit: Int64 = 65536, inFlight: Int64 = 30_000,
    rtt: Int64 = 20_000, rttMin: Int64 = 20_000, memory: Int64 = 10,
    memoryLimits: [Int64] = [287_898, 383_867, 575_796], free: Int64 = 20 * gibibyte,
    milliseconds: UInt64 = 1000
  ) -> TCPBuffer.Observation {
    TCPBuffer.Observation(
      scenario: scenario, limit: limit, size: limit, inFlight: inFlight, window: 2 * inFlight,
      rtt: rtt, rttMin: rttMin, memory: memory, memoryLimits: memoryLimits, freeMemory: free,
      peer: PeerAddress(high: 0, low: 0), localPort: 5201, remotePort: 40000,
      time: milliseconds * 1_000_000)
  }

  private func wanted(_ decision: Decision) -> Int64? {
    guard case .adjust(let adjustments) = decision else { return nil }
    return adjustments.first?.wanted.number
  }

  private func policy(_ level: Int = 4) throws -> TCPBuffer {
    TCPBuffer(learningRate: try XCTUnwrap(LearningRate(level)))
  }

  func testSmallLimitsGrowEightfoldLargerFourfold() throws {
    var policy = try policy()
    XCTAssertEqual(wanted(policy.decide(seen(limit: 65536))), 524_288)
    XCTAssertEqual(wanted(policy.decide(seen(limit: 1 << 20, inFlight: 400_000))), 4 << 20)
  }

  func testSendAndReceiveHaveTheirOwnTunable() throws {
    var policy = try policy()
    guard case .adjust(let send) = policy.decide(seen(.sendLimit)),
      case .adjust(let receive) = policy.decide(seen(.receiveLimit))
    else { return XCTFail("no adjustment") }
    XCTAssertEqual(send.map(\.tunable.name), ["net.ipv4.tcp_wmem"])
    XCTAssertEqual(receive.map(\.tunable.name), ["net.ipv4.tcp_rmem"])
    XCTAssertEqual(send.first?.assumed.number, 65536)
  }

  func testTheReasonNamesTheWindow() throws {
    var policy = try policy()
    guard case .adjust(let send) = policy.decide(seen(inFlight: 30 << 10)) else {
      return XCTFail("no adjustment")
    }
    let reason = send.first?.reason ?? ""
    XCTAssertTrue(reason.contains("30 KiB of a congestion window of 60 KiB in flight"), reason)
    // A window scale that was fixed under a small maximum keeps the connection
    // from using a larger one.
    for (window, isCapped): (Int64, Bool) in [(65536, true), (8 << 20, false)] {
      var observation = seen(.receiveLimit, limit: 1 << 20, inFlight: 400_000)
      observation.window = window
      guard case .adjust(let receive) = policy.decide(observation) else {
        return XCTFail("no adjustment")
      }
      let reason = receive.first?.reason ?? ""
      XCTAssertEqual(reason.contains("scaled for no more than 64 KiB"), isCapped, reason)
    }
  }

  func testModerationIsSwitchedOn() throws {
    var policy = try policy()
    guard case .adjust(let adjustments) = policy.decide(seen(.moderationOff, limit: 0)) else {
      return XCTFail("no adjustment")
    }
    XCTAssertEqual(adjustments.map(\.tunable.name), ["net.ipv4.tcp_moderate_rcvbuf"])
    XCTAssertEqual(adjustments.map(\.wanted.number), [1])
  }

  func testLargeStepsWaitForASecondEvent() throws {
    var policy = try policy()
    let first = seen(limit: 4 << 20, inFlight: 2_000_000)
    XCTAssertNil(wanted(policy.decide(first)))
    // Within the same round trip it tells nothing new.
    XCTAssertNil(wanted(policy.decide(seen(limit: 4 << 20, milliseconds: 1010))))
    XCTAssertEqual(wanted(policy.decide(seen(limit: 4 << 20, milliseconds: 1030))), 16 << 20)
  }

  func testNoStepIntoAQueue() throws {
    var policy = try policy()
    XCTAssertNil(wanted(policy.decide(seen(rtt: 40_000))))
    // Half full: a smaller step, and only when it is still so a round trip later.
    XCTAssertNil(wanted(policy.decide(seen(rtt: 31_000))))
    XCTAssertEqual(wanted(policy.decide(seen(rtt: 31_000, milliseconds: 1040))), 131_072)
  }

  func testReceiveSideLearnsTheShortestRoundTrip() throws {
    var policy = try policy()
    XCTAssertNotNil(wanted(policy.decide(seen(.receiveLimit, rttMin: 0))))
    XCTAssertNil(
      wanted(policy.decide(seen(.receiveLimit, limit: 524_288, rtt: 45_000, rttMin: 0))))
  }

  func testNoStepAfterOneThatOnlyMadeAQueue() throws {
    var policy = try policy()
    XCTAssertNotNil(wanted(policy.decide(seen(inFlight: 60_000))))
    let after = seen(limit: 524_288, inFlight: 75_000, rtt: 26_000, milliseconds: 2000)
    XCTAssertNil(wanted(policy.decide(after)))
    // A minute later it may try again.
    let later = seen(limit: 524_288, inFlight: 75_000, rtt: 26_000, milliseconds: 70_000)
    XCTAssertNotNil(wanted(policy.decide(later)))
  }

  func testNoRaiseUnderMemoryPressure() throws {
    var policy = try policy()
    XCTAssertNil(wanted(policy.decide(seen(memory: 287_898))))
    XCTAssertNotNil(wanted(policy.decide(seen(memory: 200_000))))
  }

  func testBoundedByMemory() throws {
    var policy = try policy()
    // 2 GB of memory: tcp_mem[1] is about 125 MB, an eighth of it 15.6 MB.
    let small: [Int64] = [22_000, 30_500, 44_000]
    for milliseconds in [1000, 1030] {
      if let wanted = wanted(
        policy.decide(
          seen(limit: 8 << 20, memoryLimits: small, milliseconds: UInt64(milliseconds))))
      {
        XCTAssertLessThanOrEqual(wanted, 30_500 * 4096 / 8)
        XCTAssertGreaterThan(wanted, 8 << 20)
        return
      }
    }
    XCTFail("no adjustment")
  }

  func testBoundedByFreeMemory() throws {
    var policy = try policy()
    XCTAssertNil(wanted(policy.decide(seen(limit: 1 << 20, free: 8 << 20))))
  }

  func testBoundedByWhatAPathCanUse() throws {
    var policy = try policy()
    // 100 Gbit/s in 50 us are 625 kB.
    XCTAssertNil(wanted(policy.decide(seen(limit: 4 << 20, rtt: 50, rttMin: 50))))
  }

  func testEdges() throws {
    var policy = try policy()
    let plenty = [Int64](repeating: .max / 2, count: 3)
    for limit in [Int64(0), 1, 4095, 4096, Int64(Int32.max) - 1, Int64(Int32.max)] {
      for milliseconds in [1000, 1100] {
        let decision = policy.decide(
          seen(
            limit: limit, rtt: .max, rttMin: .max, memoryLimits: plenty, free: .max,
            milliseconds: UInt64(milliseconds)))
        if let wanted = wanted(decision) {
          XCTAssertGreaterThan(wanted, limit)
          XCTAssertLessThanOrEqual(wanted, Int64(Int32.max))
        }
      }
    }
    XCTAssertNil(wanted(policy.decide(seen(limit: 0))))
    XCTAssertNil(wanted(policy.decide(seen(limit: Int64(Int32.max), free: .max))))
    XCTAssertNil(wanted(policy.decide(seen(memoryLimits: []))))
    XCTAssertNil(wanted(policy.decide(seen(rtt: 0, rttMin: 0, free: 0))))
  }

  func testLearningRates() throws {
    let steps = try (0...4).map { level in
      var policy = try policy(level)
      return wanted(policy.decide(seen(limit: 65536))) ?? 0
    }
    XCTAssertEqual(steps, steps.sorted())
    XCTAssertEqual(steps.first, 81920)
    XCTAssertEqual(steps.last, 524_288)
    XCTAssertNil(LearningRate(5))
    XCTAssertNil(LearningRate(-1))
  }

  func testARecordedStreamGivesTheSameAgain() throws {
    let stream = (0..<Int64(200)).map { index -> TCPBuffer.Observation in
      let scenario: TCPBuffer.Scenario = index % 3 == 0 ? .receiveLimit : .sendLimit
      let limit: Int64 = 65536 << (index % 9)
      let rtt: Int64 = 20_000 + 1000 * (index % 23)
      return seen(
        scenario, limit: limit, inFlight: 10_000 * (index % 17), rtt: rtt,
        milliseconds: UInt64(1000 + 13 * index))
    }
    func replay() throws -> [Decision] {
      var policy = try policy()
      return stream.map { policy.decide($0) }
    }
    XCTAssertEqual(try replay(), try replay())
  }

  func testStateStaysSmall() throws {
    var policy = try policy()
    for peer in 0..<1000 {
      var observation = seen(milliseconds: UInt64(1000 + peer))
      observation.peer = PeerAddress(high: 0, low: Int64(peer))
      _ = policy.decide(observation)
    }
    XCTAssertLessThanOrEqual(policy.knownPaths, 64)
  }
}
