import Kernel
import XCTest

@testable import Tuners

/// The policy of tcp-memory, without a kernel.
final class TCPMemoryPolicyTests: XCTestCase {
  private static let memory: Int64 = 16 << 30
  private static let usual: [Int64] = [196_608, 262_144, 393_216]
  /// At 6, 9 and 25 % of the memory.
  private static let atBounds: [Int64] = [251_658, 377_487, 1_048_576]

  private func id(_ inode: UInt32) -> NamespaceID {
    NamespaceID(cookie: UInt64(inode), inode: inode)
  }

  private func seen(
    _ scenario: TCPMemory.Scenario, pages: Int64, limits: [Int64] = usual, namespace: UInt32 = 1,
    sending: TCPMemory.Use = .init(), receiving: TCPMemory.Use = .init(),
    available: Int64 = memory / 2, orphans: Int64 = 0, mostOrphans: Int64 = 0, seconds: Double = 1
  ) -> TCPMemory.Observation {
    TCPMemory.Observation(
      scenario: scenario, namespace: id(namespace), pages: pages, limits: limits, sending: sending,
      receiving: receiving, available: available, orphans: orphans, mostOrphans: mostOrphans,
      time: UInt64(seconds * 1e9))
  }

  private func policy(_ level: Int = 4) throws -> TCPMemory {
    TCPMemory(
      learningRate: try XCTUnwrap(LearningRate(level)), times: .init(), memory: Self.memory,
      bufferPages: Self.memory / Memory.pageSize)
  }

  private func adjustments(_ decision: Decision) -> [Adjustment] {
    if case .adjust(let adjustments) = decision { adjustments } else { [] }
  }

  /// Carries out what was decided.
  @discardableResult
  private func apply(_ decision: Decision, to policy: inout TCPMemory) -> [Adjustment] {
    let all = adjustments(decision)
    for adjustment in all { policy.learn(adjustment, applied(adjustment)) }
    return all
  }

  private func applied(_ adjustment: Adjustment) -> Outcome {
    func value(_ part: SysctlPart) -> SysctlValue {
      switch part {
      case .whole(let value): value
      case .maximum(let number), .initial(let number): .scalar(number)
      case .word(let word, _): .text(word)
      }
    }
    return .applied(old: value(adjustment.assumed), new: value(adjustment.wanted), at: 0)
  }

  func testAllThreeGoUpInsideTheirBounds() throws {
    var policy = try policy()
    let first = apply(policy.decide(seen(.near, pages: 230_000)), to: &policy)
    XCTAssertEqual(first.map(\.tunable), [TCPMemory.limits])
    let new = try XCTUnwrap(first.first?.wanted.numbers)
    for (index, share) in [6, 9, 25].enumerated() {
      XCTAssertGreaterThan(new[index], Self.usual[index])
      XCTAssertLessThanOrEqual(new[index], Self.memory / Memory.pageSize / 100 * Int64(share))
    }
    XCTAssertEqual(new, new.sorted())
    XCTAssertEqual(policy.recheck, .seconds(60))
  }

  func testConnectionsThatSufferedAreForgottenThoughThereWasMore() throws {
    var policy = try policy()
    let up = apply(policy.decide(seen(.exhausted, pages: 300_000)), to: &policy)
    XCTAssertEqual(up.map(\.tunable), [TCPMemory.limits])
    let limits = try XCTUnwrap(up.first?.wanted.numbers)
    XCTAssertEqual(policy.recheck, .zero)
    func look(_ namespace: UInt32, _ pages: Int64, at seconds: Double) -> [Adjustment] {
      let look = seen(
        .use, pages: pages, limits: limits, namespace: namespace,
        sending: .init(bytes: pages * 4000, sockets: 100, limit: 6 << 20), seconds: seconds)
      return apply(policy.decide(look), to: &policy)
    }
    let first = look(1, 190_000, at: 1.1)
    XCTAssertEqual(
      first.map(\.tunable), [TCPMemory.noMetrics, TCPMemory.noThreshold, TCPMemory.onlySinglePages])
    XCTAssertEqual(
      look(2, 190_000, at: 1.2).map(\.tunable), [TCPMemory.noMetrics, TCPMemory.noThreshold])
    XCTAssertEqual(look(1, 1000, at: 5), [], "not for long enough")
    let back = look(1, 1000, at: 16)
    XCTAssertEqual(back.count, 5)
    XCTAssertTrue(back.allSatisfy { $0.wanted.number == 0 })
  }

  func testWhatTheMachineCannotSpareIsNotGiven() throws {
    var policy = try policy()
    // 100 MiB are left: TCP may have half of them.
    let decision = policy.decide(seen(.near, pages: 380_000, available: 100 << 20))
    XCTAssertEqual(adjustments(decision), [])
    guard case .hold = decision else { return XCTFail("\(decision)") }
    XCTAssertEqual(policy.recheck, .zero, "relief begins at once")
  }

  func testLimitsAboveTheBoundsAreLeft() throws {
    var policy = try policy()
    let large: [Int64] = [1_000_000, 2_000_000, 3_000_000]
    XCTAssertEqual(adjustments(policy.decide(seen(.near, pages: 1_900_000, limits: large))), [])
  }

  func testLimitsComeDownWhenLittleIsHeldForLong() throws {
    var policy = try policy()
    let up = apply(policy.decide(seen(.near, pages: 230_000)), to: &policy)
    let limits = try XCTUnwrap(up.first?.wanted.numbers)
    func look(_ pages: Int64, at seconds: Double) -> [Adjustment] {
      apply(policy.decide(seen(.use, pages: pages, limits: limits, seconds: seconds)), to: &policy)
    }
    XCTAssertEqual(look(1000, at: 10), [])
    XCTAssertEqual(look(100_000, at: 200), [], "in use again")
    XCTAssertEqual(look(1000, at: 250), [])
    XCTAssertEqual(look(1000, at: 500), [])
    XCTAssertEqual(look(1000, at: 551).first?.wanted.numbers, Self.usual)
    XCTAssertNil(policy.recheck)
  }

  func testALimitThatSomeoneElseSetIsForgotten() throws {
    var policy = try policy()
    apply(policy.decide(seen(.near, pages: 230_000)), to: &policy)
    XCTAssertEqual(adjustments(policy.decide(seen(.use, pages: 1, limits: [1, 2, 3]))), [])
    XCTAssertNil(policy.recheck)
  }

  /// Pressure that may not be answered by more, and two rounds of looks.
  private func pressed(
    _ uses: [UInt32: TCPMemory.Use], pages: Int64 = 1_000_000, receiving: Bool = false
  ) throws -> (TCPMemory, [Adjustment]) {
    var policy = try policy()
    _ = policy.decide(seen(.near, pages: pages, limits: Self.atBounds))
    var all: [Adjustment] = []
    for round in 1...2 {
      for (namespace, use) in uses.sorted(by: { $0.key < $1.key }) {
        let decision = policy.decide(
          seen(
            .use, pages: pages, limits: Self.atBounds, namespace: namespace,
            sending: receiving ? .init() : use, receiving: receiving ? use : .init(),
            seconds: 1 + Double(round)))
        all += apply(decision, to: &policy)
      }
    }
    return (policy, all)
  }

  func testOnlyTheNamespaceThatHoldsTheMostGetsSmallerBuffers() throws {
    let much = TCPMemory.Use(bytes: 3_600_000_000, sockets: 1000, limit: 6 << 20)
    let little = TCPMemory.Use(bytes: 200_000_000, sockets: 100, limit: 6 << 20)
    let (policy, all) = try pressed([1: little, 2: much, 3: little])
    let shrunk = all.filter { $0.tunable == TCPBuffer.sendMaximum }
    XCTAssertEqual(shrunk.map(\.namespace), [id(2)])
    let wanted = try XCTUnwrap(shrunk.first?.wanted.number)
    XCTAssertLessThanOrEqual(wanted, 3 << 20)
    XCTAssertGreaterThanOrEqual(wanted, 65536)
    XCTAssertEqual(policy.recheck, .milliseconds(250))
    // For all namespaces; large pages once.
    XCTAssertEqual(all.filter { $0.tunable == TCPMemory.noMetrics }.count, 3)
    XCTAssertEqual(all.filter { $0.tunable == TCPMemory.onlySinglePages }.count, 1)
  }

  func testTheDirectionThatHoldsItIsTheOneThatShrinks() throws {
    let much = TCPMemory.Use(bytes: 3_600_000_000, sockets: 1000, limit: 6 << 20)
    let (_, all) = try pressed([1: much], receiving: true)
    XCTAssertTrue(all.contains { $0.tunable == TCPBuffer.receiveMaximum })
    XCTAssertFalse(all.contains { $0.tunable == TCPBuffer.sendMaximum })
  }

  func testManySmallQueuesAreNoReasonForSmallerBuffers() throws {
    let many = TCPMemory.Use(bytes: 3_600_000_000, sockets: 0, limit: 6 << 20)
    let (_, all) = try pressed([1: many])
    XCTAssertFalse(all.contains { $0.tunable == TCPBuffer.sendMaximum })
  }

  func testBuffersStayFarFromTheEnd() throws {
    let much = TCPMemory.Use(bytes: 1_300_000_000, sockets: 1000, limit: 6 << 20)
    let (_, all) = try pressed([1: much], pages: 360_000)
    XCTAssertFalse(all.contains { $0.tunable == TCPBuffer.sendMaximum })
    XCTAssertTrue(all.contains { $0.tunable == TCPMemory.noMetrics })
  }

  func testEverythingIsPutBackWhenItIsOver() throws {
    let much = TCPMemory.Use(bytes: 3_600_000_000, sockets: 1000, limit: 6 << 20)
    var (policy, all) = try pressed([1: much])
    func look(_ pages: Int64, at seconds: Double) -> [Adjustment] {
      apply(
        policy.decide(seen(.use, pages: pages, limits: Self.atBounds, seconds: seconds)),
        to: &policy)
    }
    XCTAssertEqual(look(1000, at: 20), [])
    XCTAssertEqual(look(300_000, at: 25), [], "the kernel saves still")
    XCTAssertEqual(look(1000, at: 31), [], "not for long")
    let back = look(1000, at: 42)
    XCTAssertEqual(Set(back.map(\.tunable)), Set(all.map(\.tunable)))
    XCTAssertEqual(
      back.first { $0.tunable == TCPBuffer.sendMaximum }?.wanted.number, 6 << 20)
    XCTAssertEqual(back.first { $0.tunable == TCPMemory.noMetrics }?.wanted.number, 0)
    XCTAssertNil(policy.recheck)
  }

  func testWhatIsRefusedIsNotTriedAgain() throws {
    var policy = try policy()
    _ = policy.decide(seen(.near, pages: 1_000_000, limits: Self.atBounds))
    let look = seen(.use, pages: 1_000_000, limits: Self.atBounds)
    for adjustment in adjustments(policy.decide(look)) {
      policy.learn(adjustment, .refused(.unavailable))
    }
    XCTAssertEqual(adjustments(policy.decide(look)), [])
  }

  func testOrphans() throws {
    var policy = try policy()
    let enough = seen(.orphan, pages: 10, orphans: 10, mostOrphans: 65536)
    XCTAssertEqual(adjustments(policy.decide(enough)), [], "reset for another reason")
    let many = seen(.orphan, pages: 10, orphans: 60_000, mostOrphans: 65536)
    XCTAssertEqual(adjustments(policy.decide(many)).first?.wanted.number, 262_144)
    var certain = enough
    certain.isCertain = true
    XCTAssertEqual(adjustments(policy.decide(certain)).first?.wanted.number, 262_144)
    let most = seen(.orphan, pages: 10, orphans: 200_000, mostOrphans: 262_144)
    XCTAssertEqual(adjustments(policy.decide(most)), [], "sockets take memory as well")
    let short = seen(.orphan, pages: 250_000, orphans: 60_000, mostOrphans: 65536)
    XCTAssertEqual(adjustments(policy.decide(short)), [], "memory is short")
  }

  func testEdges() throws {
    var policy = try policy()
    for limits in [[], [0, 0, 0], [1, 1, 1], [Int64](repeating: .max, count: 3), [-1, 5, 2]] {
      for pages in [Int64(-5), 0, 1, .max] {
        for scenario in TCPMemory.Scenario.allCases {
          for adjustment in adjustments(
            policy.decide(
              seen(
                scenario, pages: pages, limits: limits,
                sending: .init(bytes: .max / 2, sockets: 1, limit: 4096), available: .max)))
          {
            XCTAssertTrue(adjustment.wanted.numbers.allSatisfy(adjustment.tunable.bounds.contains))
          }
        }
      }
    }
  }

  func testStateStaysSmall() throws {
    var policy = try policy()
    _ = policy.decide(seen(.near, pages: 1_000_000, limits: Self.atBounds))
    for namespace in 1..<UInt32(20_000) {
      let decision = policy.decide(
        seen(.use, pages: 1_000_000, limits: Self.atBounds, namespace: namespace))
      apply(decision, to: &policy)
    }
    XCTAssertLessThanOrEqual(policy.relief.changed.count, 4096 + 2)
    XCTAssertLessThanOrEqual(policy.relief.met.count, 4096)
  }
}
