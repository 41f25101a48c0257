import Kernel
import State
import XCTest

@testable import Kernel
@testable import Tuners

/// What is made of the figures before and after a change.
final class MeasureTests: XCTestCase {
  private let peer = PeerAddress(high: 0, low: 1)

  private func connection(
    _ cookie: UInt64, rate: Int64, rtt: Int64, segments: Int64 = 0, again: Int64 = 0, bytes: Int64
  ) -> TCPConnection {
    TCPConnection(
      cookie: cookie, peer: peer, deliveryRate: rate, receiveRate: rate, rtt: rtt,
      segments: segments, retransmits: again, bytes: bytes)
  }

  private func finding(_ before: [TCPConnection], _ after: [TCPConnection]) -> Finding {
    Finding(
      .connections(peer: peer, .sending), .connections(before), .connections(after), seconds: 3)
  }

  func testAFasterConnectionIsKept() {
    let found = finding(
      [connection(1, rate: 3_000_000, rtt: 20_000, segments: 100, bytes: 0)],
      [connection(1, rate: 15_000_000, rtt: 21_000, segments: 9000, bytes: 50_000_000)])
    XCTAssertEqual(found.verdict, .kept)
    XCTAssertEqual(found.gain, 5)
    XCTAssertEqual(
      found.effect,
      "24 Mbit/s -> 120 Mbit/s, round trip 20 ms -> 21 ms, sent again 0.0 % -> 0.0 %")
  }

  func testAQueueWithoutMoreRateIsWorse() {
    let found = finding(
      [connection(1, rate: 3_000_000, rtt: 20_000, bytes: 0)],
      [connection(1, rate: 3_100_000, rtt: 160_000, bytes: 50_000_000)])
    XCTAssertEqual(found.verdict, .worse)
  }

  func testLossesWithLessRateAreWorseAndLessRateAloneIsNot() {
    let before = [connection(1, rate: 4_000_000, rtt: 20_000, segments: 1000, again: 1, bytes: 0)]
    let lossy = connection(
      1, rate: 2_000_000, rtt: 20_000, segments: 3000, again: 201, bytes: 50_000_000)
    XCTAssertEqual(finding(before, [lossy]).verdict, .worse)
    let slow = connection(
      1, rate: 2_000_000, rtt: 20_000, segments: 3000, again: 2, bytes: 50_000_000)
    XCTAssertEqual(finding(before, [slow]).verdict, .kept)
  }

  func testOnlyConnectionsThatWentOnCount() {
    let before = [
      connection(1, rate: 4_000_000, rtt: 20_000, bytes: 0),
      connection(2, rate: 4_000_000, rtt: 20_000, bytes: 500),
    ]
    // The first one has ended, the second one idles, the third one is new.
    let after = [
      connection(2, rate: 1, rtt: 900_000, bytes: 600),
      connection(3, rate: 1, rtt: 900_000, bytes: 99_000_000),
    ]
    XCTAssertEqual(finding(before, after).verdict, .unclear)
    XCTAssertNil(finding(before, after).gain)
  }

  func testLosses() {
    let measure = Measure.losses(["Udp.RcvbufErrors"], before: 200)
    let better = Finding(measure, .losses(1000), .losses(1030), seconds: 3)
    XCTAssertEqual(better.verdict, .kept)
    XCTAssertEqual(better.effect, "losses a second 200 -> 10")
    XCTAssertEqual(
      Finding(measure, .losses(1000), .losses(4000), seconds: 3).verdict, .worse)
  }

  func testCountersAreReadByProtocolAndName() {
    let text = """
      Udp: InDatagrams RcvbufErrors
      Udp: 10 7
      UdpLite: InDatagrams RcvbufErrors
      UdpLite: 1 100
      TcpExt: TCPRcvQDrop
      TcpExt: 5
      """
    XCTAssertEqual(
      NetworkCounters.sum(of: ["Udp.RcvbufErrors", "TcpExt.TCPRcvQDrop", "Ip.None"], in: text), 12)
    XCTAssertEqual(NetworkCounters.sum(of: ["Udp.X"], in: "Udp: A\nUdp: 1 2\nUdp"), 0)
  }

  func testHoldOutIsAStableShare() {
    let half = HoldOut(share: 0.1, boot: "b")
    let ids = (0..<20_000).map {
      NamespaceID(cookie: UInt64($0), inode: 4_026_532_000 + UInt32($0))
    }
    let held = ids.filter(half.includes)
    XCTAssertEqual(Double(held.count) / 20_000, 0.1, accuracy: 0.01)
    XCTAssertEqual(held, ids.filter(HoldOut(share: 0.1, boot: "b").includes))
    XCTAssertNotEqual(held, ids.filter(HoldOut(share: 0.1, boot: "c").includes))
    XCTAssertTrue(ids.allSatisfy(HoldOut(share: 1, boot: "b").includes))
    XCTAssertFalse(ids.contains(where: HoldOut.none.includes))
  }

  func testWhoseAValueIsAfterACrash() {
    var holding = Holding(
      namespace: NamespaceID(cookie: 1, inode: 1), tunable: TCPBuffer.moderation,
      tuner: "tcp-buffer", original: .scalar(1), written: .scalar(3), previous: .scalar(2),
      since: 0, changes: 2, scenario: "", reason: "")
    XCTAssertEqual(holding.standing(of: .scalar(3)), .ours(.scalar(3)))
    XCTAssertEqual(holding.standing(of: .scalar(2)), .ours(.scalar(2)), "not written yet")
    XCTAssertEqual(holding.standing(of: .scalar(1)), .someoneElses)
    XCTAssertEqual(holding.standing(of: .scalar(9)), .someoneElses)
    holding.previous = .scalar(1)
    XCTAssertEqual(holding.standing(of: .scalar(1)), .original, "the first change, not written yet")
  }

  func testTunablesByName() {
    XCTAssertEqual(Tunable.known("net.ipv4.tcp_wmem"), TCPBuffer.sendMaximum)
    let device = Tunable.known("net.ipv4.neigh.eth0/100.gc_stale_time")
    XCTAssertEqual(device?.path, "net/ipv4/neigh/eth0.100/gc_stale_time")
    XCTAssertNil(Tunable.known("net.ipv4.neigh.default.gc_stale_time"))
    XCTAssertNil(Tunable.known("kernel.core_pattern"))
    XCTAssertNil(Tunable.known(""))
  }
}
