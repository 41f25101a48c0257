import Kernel
import TestSupport
import Tuners
import XCTest

/// net-buffer with real bursts into the backlog of a processor.
final class NetBufferTests: IntegrationTestCase {
  private static let backlog = "net.core.netdev_max_backlog"
  private static let flowLimit = "net.core.flow_limit_cpu_bitmap"
  private static let budget = "net.core.netdev_budget"
  private static let time = "net.core.netdev_budget_usecs"
  private static let orderZero = "net.core.high_order_alloc_disable"
  private var saved: SavedSysctls?

  override func setUp() async throws {
    try await super.setUp()
    saved = try await SavedSysctls(
      Self.backlog, Self.flowLimit, Self.budget, Self.time, Self.orderZero)
    try await setLimits()
  }

  override func tearDown() async throws {
    await saved?.restore()
    try await super.tearDown()
  }

  private func value(_ tunable: String) async throws -> Int {
    Int(try await TestNamespace.initial.sysctl(tunable)) ?? -1
  }

  /// Bursts of 1,000 packets, and how many of them do not come through.
  private func lost(_ packets: Packets, bursts: Int) async throws -> Int {
    let before = try await packets.arrived()
    let sent = try await packets.send(bursts: bursts, of: 1000, every: .milliseconds(20))
    return try await sent - (packets.settled().atReceiver - before.atReceiver)
  }

  /// A try that another load on this machine has spoilt is made again.
  private func eventuallyWithDaemon(
    _ options: String, _ packets: Packets, _ isSo: (Daemon) async throws -> Bool
  ) async throws -> (daemon: Daemon, lost: Int) {
    for attempt in 1... {
      let daemon = try await Daemon("--allow", "net-buffer", "--hooks", options)
      _ = try await lost(packets, bursts: 60)
      let left = try await lost(packets, bursts: 50)
      if try await isSo(daemon) || attempt == 3 { return (daemon, left) }
      try await daemon.stop()
      try await setLimits()
    }
    throw Command.Failure("unreachable")
  }

  private func setLimits() async throws {
    try await TestNamespace.initial.set(Self.backlog, "50")
    try await TestNamespace.initial.set(Self.flowLimit, "0")
  }

  // MARK: Bursts

  func testBurstsGetALongerBacklog() async throws {
    try await bursts(hooks: "tracepoint,cgroup")
  }

  func testBurstsAreSeenInTheCountersAlone() async throws {
    try await bursts(hooks: "poll,cgroup")
  }

  private func bursts(hooks: String) async throws {
    try await TestNamespace.initial.set(Self.orderZero, "1")
    let packets = try await Packets("bursts", work: 400)
    let without = try await lost(packets, bursts: 50)
    let (daemon, with) = try await eventuallyWithDaemon(hooks, packets) { _ in
      try await self.value(Self.backlog) >= 400
    }
    let backlog = try await value(Self.backlog)
    let budget = try await value(Self.budget)
    let orderZero = try await value(Self.orderZero)
    try await daemon.stop()
    await packets.close()
    print("net-buffer: \(hooks): lost of 50,000: \(without), with the daemon \(with)")
    XCTAssertGreaterThan(without, 5000, "the backlog was no limit")
    XCTAssertGreaterThanOrEqual(backlog, 400)
    XCTAssertLessThanOrEqual(backlog, 65_536)
    XCTAssertLessThan(with, without / 10)
    XCTAssertLessThanOrEqual(budget, 2400)
    if KernelVersion.running >= KernelVersion(5, 14) { XCTAssertEqual(orderZero, 0) }
  }

  /// Many packets of one flow, and few of another.
  func testSmallFlowsSurvive() async throws {
    let packets = try await Packets("flows", work: 2000)
    func lostOfTheSmallFlow() async throws -> Int {
      let before = try await packets.settled()
      async let flood = packets.send(bursts: 1, of: 1_000_000)
      let sent = try await packets.sendSteadily(200, every: .milliseconds(2))
      _ = try await flood
      return try await sent - (packets.settled().atNobody - before.atNobody)
    }
    // A queue that is never empty, and so never lengthened.
    let without = try await lostOfTheSmallFlow()
    let daemon = try await Daemon("--allow", "net-buffer")
    try await eventually("the flow limit") {
      _ = try await packets.send(bursts: 1, of: 200_000)
      return try await TestNamespace.initial.sysctl(Self.flowLimit) != "0"
    }
    let with = try await lostOfTheSmallFlow()
    try await daemon.stop()
    await packets.close()
    print("net-buffer: of 200 packets of a small flow lost: \(without), with the daemon \(with)")
    XCTAssertGreaterThan(without, 20)
    XCTAssertLessThan(with, without / 2)
  }

  /// A processor that cannot keep up is no reason for a longer queue.
  func testAFloodRaisesNothing() async throws {
    let packets = try await Packets("flood", work: 2000)
    let before = try await [value(Self.budget), value(Self.time)]
    for attempt in 1...3 {
      let daemon = try await Daemon("--allow", "net-buffer")
      let arrivedBefore = try await packets.settled().atReceiver
      var sent = 0
      try await eventually(upTo: 30, "a word about the flood") {
        sent += try await packets.send(bursts: 1, of: 500_000)
        // What was taken for a burst has to be gone again, too.
        let backlog = try await self.value(Self.backlog)
        return backlog == 50 && daemon.lines.contains { $0.contains("it cannot keep up") }
      }
      let arrived = try await packets.settled().atReceiver - arrivedBefore
      let changes = daemon.changes(of: Self.backlog)
      let budgets = try await [value(Self.budget), value(Self.time)]
      try await daemon.stop()
      XCTAssertLessThan(arrived, sent / 2, "the processor kept up")
      XCTAssertEqual(budgets, before)
      if changes.isEmpty || attempt == 3 {
        // A sender that others keep from sending makes bursts of a flood.
        XCTAssertEqual(changes, [])
        break
      }
      try await setLimits()
    }
    await packets.close()
  }

  // MARK: Other things than bursts

  /// Packets that are dropped for other reasons reach nobody.
  func testOtherDropsAreNoEvents() async throws {
    let namespace = try await TestNamespace("unknown")
    let daemon = try await Daemon("--allow", "net-buffer")
    let output = try await execute(
      Products.path("packet-sender"), "unknown", "lo", "200000", "1", netns: namespace.name)
    XCTAssertGreaterThan(Int(output.split(separator: " ").first ?? "") ?? 0, 10_000)
    try await daemon.stop()
    await namespace.delete()
    XCTAssertFalse(daemon.lines.contains { $0.contains("packets from lo") })
    XCTAssertEqual(daemon.changes(of: Self.backlog), [])
  }

  func testAnAdministratorsValueStays() async throws {
    let packets = try await Packets("admin", work: 400)
    let daemon = try await Daemon("--allow", "net-buffer")
    try await TestNamespace.initial.set(Self.backlog, "60")
    _ = try await daemon.line(containing: "net-buffer is disabled")
    _ = try await lost(packets, bursts: 40)
    let backlog = try await value(Self.backlog)
    let flowLimit = try await TestNamespace.initial.sysctl(Self.flowLimit)
    try await daemon.stop()
    await packets.close()
    XCTAssertEqual(backlog, 60)
    XCTAssertEqual(flowLimit, "0")
  }

  /// With seconds in place of minutes.
  func testTheBacklogComesDownAgain() async throws {
    let packets = try await Packets("down", work: 400)
    let tuner = try await OneTuner {
      NetBuffer(
        learningRate: $0,
        times: NetBuffer.Times(
          look: .milliseconds(200), quiet: .seconds(1), hold: .milliseconds(500)))
    }
    try await eventually(upTo: 20, "a longer backlog") {
      _ = try await self.lost(packets, bursts: 20)
      return try await self.value(Self.backlog) >= 400
    }
    let limited = try await TestNamespace.initial.sysctl(Self.flowLimit)
    try await eventually(upTo: 20, "the backlog to come down") {
      let limited = try await TestNamespace.initial.sysctl(Self.flowLimit)
      return try await self.value(Self.backlog) == 50 && limited == "0"
    }
    await tuner.stop()
    await packets.close()
    XCTAssertNotEqual(limited, "0")
    XCTAssertTrue(tuner.lines.all.contains { $0.contains("nothing was dropped for") })
  }
}
