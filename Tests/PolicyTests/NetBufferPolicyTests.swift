import Kernel
import State
import XCTest

@testable import Tuners

/// net-buffer's decisions, one look after the other.
final class NetBufferPolicyTests: XCTestCase {
  private static let second: UInt64 = 1_000_000_000
  private static let mebi: Int64 = 1 << 20

  /// What the kernel would show, and what the policy has made of it.
  private struct Machine {
    var policy = NetBuffer(learningRate: .standard)
    var values = NetBuffer.Values(backlog: 1000, budget: 300, time: 2000, flowLimit: "0")
    var processors = [Softnet.Processor(index: 0), Softnet.Processor(index: 1)]
    var time: UInt64 = 100_000_000_000
    var waited: Int64? = 0
    var isOrderZero = false
    var freeMemory: Int64 = 8 << 30
    var changes: [String] = []
    var held: [String] = []

    init() { look() }

    var observation: NetBuffer.Observation {
      .look(
        NetBuffer.Look(
          softnet: Softnet(processors: processors), values: values, isOrderZero: isOrderZero,
          waited: waited, freeMemory: freeMemory, time: time))
    }

    @discardableResult
    mutating func look() -> Decision {
      let decision = policy.decide(observation)
      if case .hold(let why, _) = decision { held.append(why) }
      guard case .adjust(let adjustments) = decision else { return decision }
      for adjustment in adjustments {
        carryOut(adjustment)
        policy.learn(adjustment, outcome(adjustment))
      }
      return decision
    }

    private mutating func carryOut(_ adjustment: Adjustment) {
      changes.append("\(adjustment.tunable.name) \(adjustment.assumed) -> \(adjustment.wanted)")
      switch adjustment.tunable {
      case NetBuffer.backlog: values.backlog = adjustment.wanted.number
      case NetBuffer.budget: values.budget = adjustment.wanted.number
      case NetBuffer.time: values.time = adjustment.wanted.number
      case NetBuffer.flowLimit: values.flowLimit = "\(adjustment.wanted)"
      default: isOrderZero = false
      }
    }

    private func outcome(_ adjustment: Adjustment) -> Outcome {
      .applied(old: .scalar(0), new: .scalar(adjustment.wanted.number), at: time)
    }

    /// The hook tells of drops.
    mutating func drops(at processor: Int = 0, isVirtual: Bool = true) {
      _ = policy.decide(
        .drops(
          NetBuffer.Drops(
            processor: processor, isVirtual: isVirtual, device: "eth0",
            namespace: NamespaceID(cookie: 1, inode: 2))))
    }

    /// Ten looks, 10 ms after one another; `dropped` in the first of each three.
    mutating func window(dropped: UInt32, queued: Int = 0, squeezed: UInt32 = 0, every: Int = 3) {
      for index in 0..<NetBuffer.Window.needed {
        time += 10_000_000
        if index % every == 0 { processors[1].dropped &+= dropped }
        processors[1].squeezed &+= squeezed
        processors[1].queued = queued
        look()
      }
    }

    /// Once a minute.
    mutating func minutes(_ count: Int) {
      for _ in 0..<count {
        time += 60 * NetBufferPolicyTests.second
        look()
      }
    }

    func count(_ tunable: Tunable) -> Int { changes.count { $0.hasPrefix(tunable.name + " ") } }
  }

  // MARK: The backlog

  func testABurstIsWhatAStepIsSizedBy() {
    var machine = Machine()
    XCTAssertNil(machine.policy.recheck, "no timer while nothing is dropped")
    machine.drops()
    XCTAssertEqual(machine.policy.recheck, .milliseconds(10))
    machine.window(dropped: 2000)
    XCTAssertEqual(machine.values.backlog, 1000 + 2000 + 500)
    XCTAssertEqual(machine.values.flowLimit, "1")
    XCTAssertEqual(machine.values.budget, 300)
  }

  func testOneStepGoesNoFurtherThanEightTimes() {
    var machine = Machine()
    machine.drops()
    machine.window(dropped: 500_000)
    XCTAssertEqual(machine.values.backlog, 8000)
  }

  func testBoundsOfTheBacklog() {
    var machine = Machine()
    for _ in 0..<20 {
      machine.drops()
      machine.window(dropped: 1_000_000)
    }
    XCTAssertEqual(machine.values.backlog, NetBuffer.mostBacklog)
    var small = Machine()
    small.freeMemory = 256 << 20
    small.drops()
    small.window(dropped: 1_000_000)
    XCTAssertEqual(small.values.backlog, (256 << 20) / 16 / NetBuffer.packetSize / 2)
    var none = Machine()
    none.freeMemory = 0
    none.drops()
    none.window(dropped: 1_000_000)
    XCTAssertEqual(none.values.backlog, 1000)
  }

  func testAFewDropsAreNoReason() {
    var machine = Machine()
    machine.drops()
    machine.window(dropped: 1)
    XCTAssertEqual(machine.changes, [])
    XCTAssertNil(machine.policy.recheck)
  }

  func testCountersThatWrap() {
    var machine = Machine()
    machine.processors[1].dropped = .max - 10
    machine.look()
    machine.policy.window = nil
    machine.changes = []
    machine.values.backlog = 1000
    machine.drops()
    machine.window(dropped: 800)
    XCTAssertEqual(machine.values.backlog, 2000)
  }

  // MARK: A processor that cannot keep up

  func testAQueueThatNeverEmptiesIsNotLengthened() {
    var machine = Machine()
    for _ in 0..<20 {
      machine.drops()
      machine.window(dropped: 5000, queued: 900, squeezed: 3, every: 1)
    }
    XCTAssertEqual(machine.values.backlog, 1000)
    XCTAssertEqual(machine.values.budget, 300)
    XCTAssertEqual(machine.count(NetBuffer.flowLimit), 1)
    XCTAssertTrue(machine.held.contains { $0.contains("cannot keep up") })
  }

  func testWhatWasRaisedIsTakenBackFromAFlood() {
    var machine = Machine()
    machine.drops()
    machine.window(dropped: 2000)
    XCTAssertGreaterThan(machine.values.backlog, 1000)
    for _ in 0..<3 {
      machine.drops()
      machine.window(dropped: 5000, queued: 900, every: 1)
    }
    XCTAssertEqual(machine.values.backlog, 1000)
    // And bursts soon after it raise nothing.
    machine.drops()
    machine.window(dropped: 2000)
    XCTAssertEqual(machine.values.backlog, 1000)
    machine.time += 11 * Self.second
    machine.look()
    machine.drops()
    machine.window(dropped: 2000)
    XCTAssertGreaterThan(machine.values.backlog, 1000)
  }

  func testAHoldDoublesUpToAnHour() {
    var hold = NetBuffer.Hold()
    var time = 100 * Self.second
    for _ in 0..<20 {
      hold.begin(at: time, first: 10 * Self.second)
      let until = hold.until
      hold.begin(at: time + 1, first: 10 * Self.second)
      XCTAssertEqual(hold.until, until, "not twice at the same time")
      time = hold.until
    }
    XCTAssertEqual(hold.length, NetBuffer.mostHold)
    hold.begin(at: hold.until + 2 * NetBuffer.mostHold, first: 10 * Self.second)
    XCTAssertEqual(hold.length, 10 * Self.second)
  }

  // MARK: The budget

  func testTheBudgetComesAfterTheBacklogOnVirtualLinks() {
    var machine = Machine()
    machine.drops()
    machine.window(dropped: 2000, squeezed: 2)
    XCTAssertEqual(machine.values.budget, 300)
    machine.drops()
    machine.window(dropped: 2000, squeezed: 2)
    XCTAssertEqual(machine.values.budget, 600)
    XCTAssertEqual(machine.values.time, 4000)
    XCTAssertEqual(machine.policy.recheck, .milliseconds(10))
  }

  func testTheBudgetComesAtOnceOnHardware() {
    var machine = Machine()
    machine.drops(isVirtual: false)
    machine.window(dropped: 2000, squeezed: 2)
    XCTAssertEqual(machine.values.budget, 600)
  }

  func testSqueezesWithoutDropsAreNoReason() {
    var machine = Machine()
    machine.drops(isVirtual: false)
    machine.window(dropped: 0, squeezed: 50)
    XCTAssertEqual(machine.changes, [])
  }

  func testTheTimeOfTheBudgetIsCapped() {
    var machine = Machine()
    machine.values.time = 8000
    for _ in 0..<10 {
      machine.drops(isVirtual: false)
      machine.window(dropped: 2000, squeezed: 2)
      machine.policy.budgetSince = nil
    }
    XCTAssertEqual(machine.values.time, 10_000)
    XCTAssertLessThanOrEqual(machine.values.budget, 2400)
    var slow = Machine()
    slow.values.time = 20_000
    slow.drops(isVirtual: false)
    slow.window(dropped: 2000, squeezed: 2)
    XCTAssertEqual(slow.count(NetBuffer.time) + slow.count(NetBuffer.budget), 0)
  }

  func testTheBudgetStaysWhereWaitingIsNotCounted() {
    var machine = Machine()
    machine.waited = nil
    machine.drops(isVirtual: false)
    machine.window(dropped: 2000, squeezed: 2)
    XCTAssertEqual(machine.values.budget, 300)
  }

  func testTheBudgetIsTakenBackWhenTasksWaitLonger() {
    var machine = Machine()
    machine.drops(isVirtual: false)
    machine.window(dropped: 2000, squeezed: 2)
    machine.window(dropped: 0)
    XCTAssertEqual(machine.values.budget, 600)
    XCTAssertEqual(machine.policy.recheck, .seconds(5))
    machine.time += 5 * Self.second
    machine.waited = 2_000_000
    machine.look()
    XCTAssertEqual(machine.values.budget, 300)
    XCTAssertEqual(machine.values.time, 2000)
    XCTAssertGreaterThan(machine.values.backlog, 1000, "the backlog is not to blame")
    machine.drops(isVirtual: false)
    machine.window(dropped: 2000, squeezed: 2)
    XCTAssertEqual(machine.values.budget, 300, "not again at once")
  }

  func testTheBudgetStaysWhenTasksWaitNoLonger() {
    var machine = Machine()
    machine.drops(isVirtual: false)
    machine.window(dropped: 2000, squeezed: 2)
    machine.window(dropped: 0)
    for _ in 0..<10 {
      machine.time += 5 * Self.second
      machine.waited = (machine.waited ?? 0) + 200_000
      machine.look()
    }
    XCTAssertEqual(machine.values.budget, 600)
  }

  // MARK: Back to what it was

  func testAllComesDownWithinTenQuietMinutes() {
    var machine = Machine()
    for _ in 0..<3 {
      machine.drops(isVirtual: false)
      machine.window(dropped: 50_000, squeezed: 2)
    }
    machine.window(dropped: 0)
    let raised = machine.values
    XCTAssertEqual(raised.backlog, NetBuffer.mostBacklog)
    machine.minutes(4)
    XCTAssertEqual(machine.values, raised)
    machine.minutes(6)
    XCTAssertEqual(
      machine.values, NetBuffer.Values(backlog: 1000, budget: 300, time: 2000, flowLimit: "0"))
    XCTAssertNil(machine.policy.recheck)
  }

  func testDropsThatComeBackMakeItWaitLonger() {
    var machine = Machine()
    machine.drops()
    machine.window(dropped: 2000)
    machine.window(dropped: 0)
    machine.minutes(6)
    XCTAssertEqual(machine.values.backlog, 1000)
    machine.drops()
    machine.window(dropped: 2000)
    machine.window(dropped: 0)
    machine.minutes(6)
    XCTAssertGreaterThan(machine.values.backlog, 1000)
    machine.minutes(5)
    XCTAssertEqual(machine.values.backlog, 1000)
  }

  func testWhatAnEarlierDaemonRaisedComesDown() {
    var machine = Machine()
    machine.policy = NetBuffer(learningRate: .standard)
    machine.values = NetBuffer.Values(backlog: 8000, budget: 300, time: 2000, flowLimit: "3")
    for (tunable, original) in [
      (NetBuffer.backlog, SysctlValue.scalar(1000)), (NetBuffer.flowLimit, .text("0")),
    ] {
      machine.policy.recall(holding(tunable, original), at: machine.time)
    }
    machine.look()
    XCTAssertEqual(machine.policy.recheck, .seconds(60))
    machine.minutes(10)
    XCTAssertEqual(
      machine.values, NetBuffer.Values(backlog: 1000, budget: 300, time: 2000, flowLimit: "0"))
    XCTAssertNil(machine.policy.recheck)
  }

  private func holding(_ tunable: Tunable, _ original: SysctlValue) -> Holding {
    Holding(
      namespace: NamespaceID(cookie: 1, inode: 2), tunable: tunable, tuner: NetBuffer.name,
      original: original, written: original, previous: original, since: 0, changes: 1,
      scenario: "", reason: "")
  }

  func testOrderZeroIsLeftWhereItDoesHarm() {
    var machine = Machine()
    machine.isOrderZero = true
    machine.drops()
    machine.window(dropped: 2000)
    XCTAssertEqual(machine.count(NetBuffer.orderZero), 1)
    XCTAssertFalse(machine.isOrderZero)
  }

  func testAnAdministratorsRefusalEndsTheLooks() {
    var machine = Machine()
    machine.drops()
    machine.window(dropped: 2000)
    machine.policy.learn(
      Adjustment(NetBuffer.backlog, from: 1, to: 2, scenario: "", reason: ""),
      .refused(.administrator("someone")))
    machine.policy.window = nil
    XCTAssertNil(machine.policy.recheck)
  }

  /// The same looks give the same adjustments.
  func testReplay() {
    let runs = (0..<2).map { _ in
      var machine = Machine()
      for index in 0..<30 {
        machine.drops(at: index % 2, isVirtual: index % 3 != 0)
        machine.window(
          dropped: UInt32(index * 37), queued: index % 5 == 0 ? 10 : 0, squeezed: UInt32(index % 2))
      }
      return machine.changes
    }
    XCTAssertEqual(runs[0], runs[1])
    XCTAssertFalse(runs[0].isEmpty)
  }

  // MARK: What the kernel prints

  func testProcessorSets() {
    XCTAssertEqual(ProcessorSet.adding([0, 1], to: "0"), "3")
    XCTAssertEqual(ProcessorSet.adding([2, 63], to: "00000000,00000001"), "80000000,00000005")
    XCTAssertEqual(ProcessorSet.adding([36], to: "0f,00000000"), "1f,00000000")
    XCTAssertEqual(ProcessorSet.adding([64, -1], to: "00000000,00000001"), "00000000,00000001")
    XCTAssertNil(ProcessorSet.adding([1], to: "x"))
    XCTAssertNil(ProcessorSet.adding([1], to: ""))
  }

  func testSoftnetCounters() {
    let text = """
      00eb7f52 0000027d 00000003 00000000 00000000 00000000 00000000 00000000 00000000 0000000a 00000007 00000005 00000000 00000002 00000003
      01519dd7 0000045b 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000003
      short line
      """
    XCTAssertEqual(
      Softnet(parsing: text).processors,
      [
        Softnet.Processor(
          index: 0, processed: 0xeb7f52, dropped: 0x27d, squeezed: 3,
          flowLimited: 7, queued: 5),
        Softnet.Processor(index: 3, processed: 0x1519dd7, dropped: 0x45b),
      ])
  }
}
