import Kernel
import XCTest

@testable import Tuners

final class TCPConnPolicyTests: XCTestCase {
  private let peer = PeerAddress(
    high: 0, low: Int64(bitPattern: UInt64(bigEndian: 0x0000_ffff_0a01_0203)))

  private func seen(
    _ scenario: TCPConn.Scenario, to: TCPConn.Algorithm = .bbr, prefix: Int64 = 128
  ) -> TCPConn.Observation {
    let event = TCPConn.PathEvent(
      scenario: scenario, from: .other, to: to, reason: .loss, peer: peer, prefix: prefix,
      rttMin: 100_000, old: TCPConn.Record(rate: 850, rtt: 100_200, loss: 21_300),
      new: TCPConn.Record(rate: 90_700, rtt: 101_000, loss: 500), otherName: "reno",
      inVain: 625_000)
    return .path(event)
  }

  private func adjustment(_ decision: Decision) throws -> Adjustment {
    guard case .adjust(let all) = decision, all.count == 1 else {
      throw Refusal.failed("\(decision)")
    }
    return all[0]
  }

  func testAsksForWhatIsNotAllowed() throws {
    var policy = TCPConn(learningRate: .standard)
    let wanted = try adjustment(policy.decide(seen(.need)))
    XCTAssertEqual(wanted.tunable, TCPConn.allowed)
    let before = SysctlValue.text("cubic reno")
    XCTAssertTrue(wanted.assumed.holds(in: before))
    XCTAssertEqual(before.with(wanted.wanted), .text("bbr cubic reno"))
    XCTAssertTrue(wanted.reason.contains("10.1.2.3"), wanted.reason)
    XCTAssertTrue(wanted.reason.contains("850 kbit/s"), wanted.reason)
    XCTAssertTrue(wanted.reason.contains("2.1 % lost with reno"), wanted.reason)
  }

  func testLearnsWhatMayBeUsed() throws {
    var policy = TCPConn(learningRate: .standard)
    XCTAssertEqual(policy.table, [0, 0])
    let bbr = try adjustment(policy.decide(seen(.need)))
    policy.learn(bbr, .refused(.administrator("someone set it")))
    XCTAssertEqual(policy.table, [0, 0])
    // It is allowed already: the adjustment is stale, and all is well.
    policy.learn(bbr, .refused(.stale(current: .text("bbr reno"))))
    XCTAssertEqual(policy.table, [0b10, 0])
    let cubic = try adjustment(policy.decide(seen(.need, to: .cubic)))
    policy.learn(
      cubic, .applied(old: .text("bbr reno"), new: .text("bbr cubic reno"), at: 1))
    XCTAssertEqual(policy.table, [0b110, 0])
    let htcp = try adjustment(policy.decide(seen(.need, to: .htcp)))
    policy.learn(htcp, .refused(.unavailable))
    XCTAssertEqual(policy.table, [0b110, 0b1000])
    let dctcp = try adjustment(policy.decide(seen(.need, to: .dctcp)))
    policy.learn(dctcp, .refused(.stale(current: .text("bbr cubic"))))
    XCTAssertEqual(policy.table, [0b110, 0b1000], "stale for another reason: nothing is known")
  }

  func testKnowsWhatIsAllowedFromTheStart() {
    var policy = TCPConn(learningRate: .standard)
    _ = policy.decide(.allowed(["reno", "cubic", "bbr"]))
    XCTAssertEqual(policy.table, [0b110, 0])
  }

  func testTellsOfTimeouts() {
    var policy = TCPConn(learningRate: .standard)
    guard case .note(let sooner, _) = policy.decide(seen(.sooner)),
      case .note(let later, _) = policy.decide(seen(.later))
    else { return XCTFail("both are told") }
    XCTAssertTrue(sooner.hasPrefix("time-outs to 10.1.2.3: 50 ms"), sooner)
    XCTAssertTrue(sooner.contains("2.1 % lost, round trip 100 ms"), sooner)
    XCTAssertTrue(later.hasPrefix("time-outs to 10.1.2.3: 200 ms"), later)
    XCTAssertTrue(later.contains("in 62.5 % of cases"), later)
  }

  func testNamesWhatWasChosen() {
    var policy = TCPConn(learningRate: .standard)
    let decision = policy.decide(seen(.chosen, prefix: 120))
    XCTAssertEqual(
      decision,
      .note(
        "congestion control to 10.1.2.3/24: reno -> bbr: segments are lost without a queue:"
          + " 850 kbit/s, round trip 100 ms, 2.1 % lost with reno; 90.7 Mbit/s, round trip 101 ms,"
          + " 0.05 % lost with bbr", about: "chosen"))
  }

  func testIgnoresWhatIsNoEventOfIts() {
    XCTAssertNil(TCPConnPath(key: [], value: []))
    XCTAssertNil(TCPConnPath(key: [UInt8](repeating: 0, count: 32), value: [1, 2, 3]))
  }

  func testReadsAnEntryOfTheMap() throws {
    var key = [UInt8](repeating: 0, count: 32)
    key[8] = 7
    key[12] = 128
    key.replaceSubrange(26..<32, with: [0xff, 0xff, 10, 0, 0, 1])
    var value = [UInt8](repeating: 0, count: 392)
    value.replaceSubrange(256..<260, with: Array("reno".utf8))
    value[1 * 32 + 8] = 100  // rate of bbr
    value[1 * 32 + 16] = 200
    value[1 * 32 + 20] = 2
    value[1 * 32 + 24] = 9
    value[357] = 1  // chosen
    value[358] = 5  // no trial
    value[360] = 1  // loss
    value[364] = 3  // connections that send again sooner
    value[368] = 40
    value[372] = 6
    let path = try XCTUnwrap(TCPConnPath(key: key, value: value))
    XCTAssertEqual(path.namespace.inode, 7)
    XCTAssertEqual(path.path, "10.0.0.1")
    XCTAssertEqual([path.original, path.chosen], ["reno", "bbr"])
    XCTAssertNil(path.trial)
    XCTAssertEqual(path.reason, .loss)
    XCTAssertEqual(path.arms.map(\.algorithm), ["bbr"])
    XCTAssertEqual(path.arms[0].record.rate, 100, "rates below 1 Mbit/s are not zero")
    XCTAssertEqual(path.arms[0].record.loss, 10_000)
    let text = TCPConnPath.table([path], now: 0)
    XCTAssertTrue(text.hasPrefix("10.0.0.1 (netns 7): bbr: segments are lost"), text)
    XCTAssertTrue(text.contains("100 kbit/s"), text)
    XCTAssertEqual([path.sooner, path.again, path.inVain], [3, 40, 6])
    XCTAssertTrue(
      text.contains("3 connections with time-outs from 50 ms on: sent again 40 times"), text)
  }

  func testWordsOfAListHaveNoOrder() {
    let value = SysctlValue("reno\tcubic bbr\n", arity: .words)
    XCTAssertEqual(value, SysctlValue("bbr reno cubic", arity: .words))
    XCTAssertEqual(value?.overwritten(by: "cubic reno bbr", arity: .words), value)
    XCTAssertNotEqual(value?.overwritten(by: "cubic reno", arity: .words), value)
    XCTAssertEqual(value?.with(.word("bbr", isThere: false)), .text("cubic reno"))
  }
}
