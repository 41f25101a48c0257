import Kernel
import XCTest

@testable import Tuners

/// The policy of neigh, without a kernel and without waiting.
final class NeighPolicyTests: XCTestCase {
  private static let gibibyte: Int64 = 1 << 30
  private let home = NamespaceID(cookie: 7, inode: 77)

  /// An ARP table of the kernel's own size on a machine with plenty of memory,
  /// filled from a device with a /8.
  private func seen(
    _ scenario: Neigh.Scenario = .filling, _ table: NeighbourTable = .arp, entries: Int64? = nil,
    gcEntries: Int64 = 384, thresholds: [Int64] = [128, 512, 1024], need: Int64 = 1 << 24,
    count: Int64 = 100, away: Int64 = 5000, accepts: Bool = true, device: String = "eth0",
    namespace: NamespaceID? = nil, free: Int64 = 20 * gibibyte, seconds: UInt64 = 1000
  ) -> Neigh.Observation {
    Neigh.Observation(
      scenario: scenario, table: table, entries: entries ?? gcEntries, gcEntries: gcEntries,
      thresholds: thresholds, rate: 1000, refused: 0, need: need, count: count, away: away,
      accepts: accepts, device: device, namespace: namespace ?? home, freeMemory: free,
      time: seconds * 1_000_000_000)
  }

  private func policy(_ level: Int = 4) throws -> Neigh {
    Neigh(learningRate: try XCTUnwrap(LearningRate(level)))
  }

  private func adjustments(_ decision: Decision) -> [Adjustment] {
    guard case .adjust(let adjustments) = decision else { return [] }
    return adjustments
  }

  /// `name wanted` of each, without what all names have in common.
  private func words(_ decision: Decision) -> [String] {
    adjustments(decision).map {
      "\($0.tunable.name.split(separator: ".").last ?? "") \($0.wanted)"
    }
  }

  /// Decides, and has everything applied.
  private func apply(_ policy: inout Neigh, _ seen: Neigh.Observation) -> [String] {
    let decision = policy.decide(seen)
    for adjustment in adjustments(decision) {
      policy.learn(
        adjustment,
        .applied(
          old: .scalar(adjustment.assumed.number), new: .scalar(adjustment.wanted.number), at: 0))
    }
    return words(decision)
  }

  // MARK: Growing

  func testGrowsSixteenfoldTheHighestFirst() throws {
    var policy = try policy()
    let decision = policy.decide(seen())
    XCTAssertEqual(words(decision), ["gc_thresh3 16384", "gc_thresh2 8192"])
    XCTAssertEqual(adjustments(decision).map(\.assumed.number), [1024, 512])
    XCTAssertEqual(
      adjustments(decision).map(\.tunable.name),
      ["net.ipv4.neigh.default.gc_thresh3", "net.ipv4.neigh.default.gc_thresh2"])
  }

  func testTwoHundredThousandTakeSixChanges() throws {
    var policy = try policy()
    var thresholds: [Int64] = [128, 512, 1024]
    var changes = 0
    while thresholds[1] * 3 / 4 < 200_000 {
      let adjustments = adjustments(
        policy.decide(seen(gcEntries: thresholds[1] * 3 / 4, thresholds: thresholds)))
      XCTAssertFalse(adjustments.isEmpty)
      if adjustments.isEmpty { return }
      for adjustment in adjustments {
        let number = Int(adjustment.tunable.name.suffix(1)) ?? 0
        thresholds[number - 1] = adjustment.wanted.number
        changes += 1
      }
    }
    XCTAssertEqual(changes, 6)
  }

  func testTheTablesAreApart() throws {
    var policy = try policy()
    _ = apply(&policy, seen(.filling, .arp))
    let six = policy.decide(seen(.filling, .ndisc))
    XCTAssertEqual(
      adjustments(six).first?.tunable.name, "net.ipv6.neigh.default.gc_thresh3")
  }

  func testACautiousStepIsSmall() throws {
    var policy = try policy(0)
    XCTAssertEqual(words(policy.decide(seen())), ["gc_thresh3 1280", "gc_thresh2 640"])
  }

  func testPrefixesOfAllNamespacesAreAskedForBeforeItStops() throws {
    var policy = try policy()
    let small = seen(need: 256)
    XCTAssertEqual(policy.decide(small), .survey)
    policy.learn(surveyed: 1 << 16, for: small)
    XCTAssertEqual(words(policy.decide(small)), ["gc_thresh3 16384", "gc_thresh2 8192"])
  }

  func testBoundedByThePrefixes() throws {
    var policy = try policy()
    let scan = seen(need: 256)
    XCTAssertEqual(policy.decide(scan), .survey)
    policy.learn(surveyed: 512, for: scan)
    guard case .hold(let why, _) = policy.decide(scan) else { return XCTFail("grown") }
    XCTAssertTrue(why.contains("512 addresses"), why)
    XCTAssertTrue(why.contains("eth0"), why)
    // The next one asks again: addresses may have been added.
    XCTAssertEqual(policy.decide(seen(need: 256, seconds: 1001)), .survey)
    let larger = seen(need: 256, seconds: 1002)
    XCTAssertEqual(policy.decide(larger), .survey)
    policy.learn(surveyed: 1024, for: larger)
    XCTAssertEqual(words(policy.decide(larger)), ["gc_thresh3 2048", "gc_thresh2 1024"])
  }

  func testBoundedByMemory() throws {
    var policy = try policy()
    // A sixteenth of 64 MiB is 8192 entries of 512 bytes.
    let seen = seen(free: 64 << 20)
    XCTAssertEqual(words(policy.decide(seen)), ["gc_thresh3 8576", "gc_thresh2 4288"])
    let low = self.seen(thresholds: [128, 4288, 8576], free: 32 << 20)
    guard case .hold(let why, _) = policy.decide(low) else { return XCTFail("grown") }
    XCTAssertTrue(why.contains("free memory"), why)
  }

  func testBoundedInAll() throws {
    var policy = try policy()
    let full = seen(gcEntries: 400_000, thresholds: [128, 524_288, 1_048_576])
    guard case .hold = policy.decide(full) else { return XCTFail("grown") }
  }

  func testEdges() throws {
    var policy = try policy()
    for number in [Int64.min, -1, 0, 1, Int64(Int32.max), .max] {
      _ = policy.decide(
        seen(thresholds: [number, number, number], need: 1 << 34, free: .max))
      _ = policy.decide(seen(.report, thresholds: [1, 1, max(1, min(number, 1 << 31))]))
    }
    XCTAssertEqual(
      policy.decide(seen(thresholds: [])), .leave("no thresholds are known"))
    // Thresholds out of order, as an administrator may have them.
    var other = try self.policy()
    XCTAssertEqual(
      words(other.decide(seen(thresholds: [4000, 20_000, 1024]))), ["gc_thresh3 16384"])
  }

  // MARK: Shrinking

  func testNoTimerWhileNothingIsRaised() throws {
    var policy = try policy()
    XCTAssertNil(policy.recheck)
    let decision = policy.decide(seen())
    // Advice and refusals raise nothing.
    for adjustment in adjustments(decision) {
      policy.learn(adjustment, .advised(old: .scalar(1024), new: .scalar(16384)))
      policy.learn(adjustment, .refused(.stale(current: .scalar(4096))))
    }
    XCTAssertNil(policy.recheck)
    _ = apply(&policy, seen())
    XCTAssertEqual(policy.recheck, .seconds(60))
  }

  func testGoesBackWhenItHasBeenSmallForAWhile() throws {
    var policy = try policy()
    _ = apply(&policy, seen())
    let raised: [Int64] = [128, 8192, 16384]
    func look(_ seconds: UInt64, _ gcEntries: Int64) -> [String] {
      apply(
        &policy, seen(.report, gcEntries: gcEntries, thresholds: raised, seconds: seconds))
    }
    XCTAssertEqual(look(1060, 5), [])
    XCTAssertEqual(look(1300, 5), [])
    // In use again: it starts over.
    XCTAssertEqual(look(1340, 5000), [])
    XCTAssertEqual(look(1400, 5), [])
    XCTAssertEqual(look(1699, 5), [])
    // The lower one first.
    XCTAssertEqual(look(1700, 5), ["gc_thresh2 512", "gc_thresh3 1024"])
    XCTAssertNil(policy.recheck)
  }

  func testShrinksInPart() throws {
    var policy = try policy()
    _ = apply(&policy, seen())
    _ = apply(&policy, seen(gcEntries: 6144, thresholds: [128, 8192, 16384]))
    let raised: [Int64] = [128, 131_072, 262_144]
    _ = apply(&policy, seen(.report, gcEntries: 1000, thresholds: raised, seconds: 1100))
    XCTAssertEqual(
      apply(&policy, seen(.report, gcEntries: 1000, thresholds: raised, seconds: 1500)),
      ["gc_thresh2 4096", "gc_thresh3 8192"])
    XCTAssertNotNil(policy.recheck)
  }

  func testWhatAnAdministratorHadSetIsTheFloor() throws {
    var policy = try policy()
    let before: [Int64] = [1024, 4096, 8192]
    _ = apply(&policy, seen(gcEntries: 3072, thresholds: before))
    let raised: [Int64] = [1024, 65_536, 131_072]
    _ = apply(&policy, seen(.report, gcEntries: 5, thresholds: raised, seconds: 1100))
    XCTAssertEqual(
      apply(&policy, seen(.report, gcEntries: 5, thresholds: raised, seconds: 1500)),
      ["gc_thresh2 4096", "gc_thresh3 8192"])
  }

  // MARK: Churn

  func testEntriesThatComeBackAreKeptForLonger() throws {
    var policy = try policy()
    let churn = seen(.churn, gcEntries: 200, away: 40_000)
    let decision = policy.decide(churn)
    XCTAssertEqual(words(decision), ["gc_stale_time 130"])
    XCTAssertEqual(adjustments(decision).first?.namespace, home)
    // Somebody had set another value: it takes that from then on.
    policy.learn(adjustments(decision)[0], .refused(.stale(current: .scalar(30))))
    XCTAssertEqual(apply(&policy, churn), ["gc_stale_time 100"])
    XCTAssertEqual(policy.recheck, .seconds(60))
    XCTAssertEqual(
      apply(&policy, seen(.churn, gcEntries: 200, away: 1000, seconds: 1010)),
      ["gc_stale_time 200"])
    // Quiet for a quarter of an hour: it tries without.
    XCTAssertEqual(apply(&policy, seen(.report, gcEntries: 9, seconds: 1909)), [])
    XCTAssertEqual(
      apply(&policy, seen(.report, gcEntries: 9, seconds: 1911)), ["gc_stale_time 30"])
    XCTAssertNil(policy.recheck)
  }

  func testWhereKeepingIsNotEnoughNothingIsCollected() throws {
    var policy = try policy()
    var last: [String] = []
    for second in 0..<6 {
      last = apply(
        &policy,
        seen(
          .churn, gcEntries: 2000, thresholds: [128, 8192, 16384], seconds: 1000 + UInt64(second)))
    }
    XCTAssertEqual(last, ["gc_thresh1 4096"])
    XCTAssertEqual(
      apply(
        &policy,
        seen(.report, gcEntries: 2000, thresholds: [4096, 8192, 16384], seconds: 1904)), [])
    XCTAssertEqual(
      apply(
        &policy,
        seen(.report, gcEntries: 2000, thresholds: [4096, 8192, 16384], seconds: 1905)),
      ["gc_thresh1 128", "gc_stale_time 60"])
  }

  func testForcedCollectionIsAnsweredByGrowing() throws {
    var policy = try policy()
    XCTAssertEqual(
      words(policy.decide(seen(.churn, gcEntries: 500))), ["gc_thresh3 16384", "gc_thresh2 8192"])
  }

  func testNeighboursThatAnswerAreProbedLessOften() throws {
    var policy = try policy()
    let probes = seen(.probes, .ndisc, device: "br0")
    let decision = policy.decide(probes)
    XCTAssertEqual(
      adjustments(decision).map(\.tunable.name),
      ["net.ipv6.neigh.br0.base_reachable_time_ms"])
    for milliseconds in [60_000, 120_000, 240_000] {
      XCTAssertEqual(apply(&policy, probes), ["base_reachable_time_ms \(milliseconds)"])
    }
    XCTAssertEqual(apply(&policy, probes), [])
    XCTAssertEqual(
      apply(&policy, seen(.report, seconds: 1900)), ["base_reachable_time_ms 30000"])
    XCTAssertNil(policy.recheck)
  }

  // MARK: Packets that wait for an address

  private func waited(_ queue: Int64, lost: Int64, free: Int64 = 20 * gibibyte)
    -> Neigh.Observation
  {
    var seen = seen(.waited, gcEntries: 3, count: lost / 768, away: 900, free: free)
    seen.queue = queue
    seen.lost = lost
    return seen
  }

  func testAQueueGetsRoomForWhatWasLost() throws {
    var policy = try policy()
    let lost = waited(212_992, lost: 800_000)
    XCTAssertEqual(
      adjustments(policy.decide(lost)).map(\.tunable.name), ["net.ipv4.neigh.eth0.unres_qlen_bytes"]
    )
    XCTAssertEqual(apply(&policy, lost), ["unres_qlen_bytes 1212992"])
    // An event from before the step repeats nothing.
    XCTAssertEqual(apply(&policy, lost), [])
    XCTAssertEqual(
      apply(&policy, waited(1_212_992, lost: 400_000)), ["unres_qlen_bytes 1712992"])
    // Quiet for a quarter of an hour: it tries without.
    XCTAssertEqual(
      apply(&policy, seen(.report, gcEntries: 9, seconds: 1900)), ["unres_qlen_bytes 212992"])
    XCTAssertNil(policy.recheck)
  }

  func testAQueueIsBounded() throws {
    var policy = try policy()
    XCTAssertEqual(
      apply(&policy, waited(212_992, lost: 1 << 40)), ["unres_qlen_bytes 3407872"])
    XCTAssertEqual(
      apply(&policy, waited(3_407_872, lost: 1 << 40)), ["unres_qlen_bytes 4194304"])
    XCTAssertEqual(apply(&policy, waited(4_194_304, lost: 1 << 40)), [])
    // A thousandth of free memory, and none where none may wait.
    var small = try self.policy()
    XCTAssertEqual(
      apply(&small, waited(212_992, lost: 1 << 30, free: Self.gibibyte)),
      ["unres_qlen_bytes 1048576"])
    XCTAssertEqual(apply(&small, waited(0, lost: 1 << 20)), [])
  }

  func testTheCountsBeforeAndAfterAreTold() throws {
    var policy = try policy()
    var look = seen(.report, gcEntries: 9)
    look.counts = NeighbourTable.Counts(forcedCollections: 4, refused: 30, discarded: 200)
    _ = policy.decide(look)
    look.counts = NeighbourTable.Counts(forcedCollections: 5, refused: 30, discarded: 202)
    _ = policy.decide(look)
    XCTAssertEqual(
      policy.findings,
      [
        "arp_cache: 4 forced collections, 30 entries refused and 200 packets lost in queues when"
          + " they were counted first, 1, 0 and 2 since"
      ])
  }

  func testStateStaysSmall() throws {
    var policy = try policy()
    for index in 0..<2000 {
      _ = policy.decide(seen(.churn, gcEntries: 200, device: "d\(index)"))
      _ = policy.decide(seen(.unsolicited, device: "d\(index)"))
    }
    XCTAssertLessThanOrEqual(policy.kept.count, 256)
    XCTAssertLessThanOrEqual(policy.floods.count, 256)
  }

  // MARK: Floods

  func testAFloodOfGratuitousARP() throws {
    var policy = try policy()
    XCTAssertEqual(words(policy.decide(seen(.unsolicited, accepts: false))), [])
    XCTAssertEqual(words(policy.decide(seen(.unsolicited, gcEntries: 100))), [])
    let flood = seen(.unsolicited, device: "eth0.100")
    let decision = policy.decide(flood)
    XCTAssertEqual(
      adjustments(decision).map(\.tunable.name),
      ["net.ipv4.conf.eth0/100.drop_gratuitous_arp"])
    XCTAssertEqual(
      adjustments(decision).map(\.tunable.path),
      ["net/ipv4/conf/eth0.100/drop_gratuitous_arp"])
    XCTAssertEqual(adjustments(decision).first?.risk?.name, "neigh.drop_gratuitous_arp")
    // Advice is no reason to look again.
    policy.learn(adjustments(decision)[0], .advised(old: .scalar(0), new: .scalar(1)))
    XCTAssertNil(policy.recheck)
    XCTAssertEqual(apply(&policy, flood), ["drop_gratuitous_arp 1"])
    XCTAssertNotNil(policy.recheck)
  }

  func testDroppingIsTakenBackAndComesBackForLonger() throws {
    var policy = try policy()
    XCTAssertEqual(apply(&policy, seen(.unsolicited)), ["drop_gratuitous_arp 1"])
    XCTAssertEqual(apply(&policy, seen(.report, seconds: 1059)), [])
    XCTAssertEqual(apply(&policy, seen(.report, seconds: 1060)), ["drop_gratuitous_arp 0"])
    XCTAssertEqual(apply(&policy, seen(.unsolicited, seconds: 1061)), ["drop_gratuitous_arp 1"])
    XCTAssertEqual(apply(&policy, seen(.report, seconds: 1121)), [])
    XCTAssertEqual(apply(&policy, seen(.report, seconds: 1181)), ["drop_gratuitous_arp 0"])
    XCTAssertNil(policy.recheck)
  }

  // MARK: Names

  func testNamesOfDevices() {
    let pattern = Neigh.dropGratuitous
    XCTAssertEqual(pattern.device(inPath: "net/ipv4/conf/eth0.100/drop_gratuitous_arp"), "eth0.100")
    XCTAssertNil(pattern.device(inPath: "net/ipv4/conf/all/drop_gratuitous_arp"))
    XCTAssertNil(pattern.device(inPath: "net/ipv4/conf/eth0/arp_accept"))
    XCTAssertNil(pattern.device(inPath: "net/ipv4/conf/drop_gratuitous_arp"))
    XCTAssertNil(TCPBuffer.sendMaximum.device(inPath: "net/ipv4/tcp_wmem"))
  }
}
