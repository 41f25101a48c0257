import Kernel
import XCTest

@testable import Tuners

/// The policy of tcp-listen, without a kernel.
final class TCPListenPolicyTests: XCTestCase {
  private static let gibibyte: Int64 = 1 << 30

  private func seen(
    _ scenario: TCPListen.Scenario, port: Int64 = 80, synQueue: Int64 = 0, acceptQueue: Int64 = 0,
    backlog: Int64 = 128, synBacklog: Int64 = 2048, synCookies: Int64 = 1, somaxconn: Int64 = 128,
    added: Int64 = 0, repeated: Int64 = 0, clamp: Int64 = 128, process: Int64 = 7,
    inode: Int64 = 0, free: Int64 = 20 * gibibyte, milliseconds: UInt64
  ) -> TCPListen.Observation {
    TCPListen.Observation(
      scenario: scenario, namespace: NamespaceID(cookie: 1, inode: 1), port: port,
      synQueue: synQueue, acceptQueue: acceptQueue, backlog: backlog, synBacklog: synBacklog,
      synCookies: synCookies, somaxconn: somaxconn, added: added, repeated: repeated,
      since: Int64(milliseconds), clamp: clamp, process: process, command: "server", inode: inode,
      freeMemory: free, time: milliseconds * 1_000_000)
  }

  private func policy(_ level: Int = 4) throws -> TCPListen {
    TCPListen(learningRate: try XCTUnwrap(LearningRate(level)))
  }

  private func changes(_ decision: Decision) -> [String: Int64] {
    guard case .adjust(let adjustments) = decision else { return [:] }
    return Dictionary(
      uniqueKeysWithValues: adjustments.map { ($0.tunable.name, $0.wanted.number) })
  }

  private func held(_ decision: Decision) -> String {
    if case .hold(let why, _) = decision { why } else { "" }
  }

  // MARK: The accept queue

  func testQueueThatDrainsIsABurst() throws {
    var policy = try policy()
    XCTAssertNil(policy.recheck)
    XCTAssertEqual(
      changes(policy.decide(seen(.acceptFull, acceptQueue: 128, milliseconds: 1000))), [:])
    XCTAssertEqual(policy.recheck, .milliseconds(300))
    let decision = policy.decide(seen(.report, acceptQueue: 10, added: 50, milliseconds: 1300))
    XCTAssertEqual(changes(decision), ["net.core.somaxconn": 1024])
    XCTAssertNil(policy.recheck)
  }

  func testCautiousStep() throws {
    var policy = try policy(0)
    _ = policy.decide(seen(.acceptFull, acceptQueue: 128, milliseconds: 1000))
    let decision = policy.decide(seen(.report, acceptQueue: 0, milliseconds: 1300))
    XCTAssertEqual(changes(decision), ["net.core.somaxconn": 160])
  }

  func testBusyButFastEnough() throws {
    var policy = try policy()
    _ = policy.decide(seen(.acceptFull, acceptQueue: 128, milliseconds: 1000))
    // Still full, but 600 were taken in 300 ms: nobody waits for a second.
    let decision = policy.decide(seen(.report, acceptQueue: 128, added: 600, milliseconds: 1300))
    XCTAssertEqual(changes(decision), ["net.core.somaxconn": 1024])
  }

  func testSlowAndStuckAreNamed() throws {
    for added: Int64 in [0, 3] {
      var policy = try policy()
      _ = policy.decide(seen(.acceptFull, acceptQueue: 128, milliseconds: 1000))
      let why = held(
        policy.decide(seen(.report, acceptQueue: 128, added: added, milliseconds: 1300)))
      XCTAssertTrue(why.contains("pid 7 (server) accepts too slowly"), why)
    }
  }

  func testSmallBacklogOfItsOwn() throws {
    var policy = try policy()
    let full = seen(
      .acceptFull, acceptQueue: 16, backlog: 16, somaxconn: 4096, clamp: 4096, milliseconds: 1000)
    _ = policy.decide(full)
    let why = held(
      policy.decide(
        seen(.report, backlog: 16, somaxconn: 4096, clamp: 4096, milliseconds: 1300)))
    XCTAssertTrue(why.contains("asked listen() for no more"), why)
  }

  func testRaisedAlreadyAndNotListenedAgain() throws {
    var policy = try policy()
    _ = policy.decide(seen(.acceptFull, acceptQueue: 128, somaxconn: 1024, milliseconds: 1000))
    let why = held(policy.decide(seen(.report, somaxconn: 1024, milliseconds: 1300)))
    XCTAssertTrue(why.contains("has to call listen() again"), why)
  }

  func testProcessOfAnOlderListenerIsLookedFor() throws {
    var policy = try policy()
    _ = policy.decide(
      seen(.acceptFull, acceptQueue: 128, clamp: 0, process: 0, milliseconds: 1000))
    let report = seen(.report, clamp: 0, process: 0, inode: 99, milliseconds: 1300)
    XCTAssertEqual(policy.decide(report), .survey)
    policy.learn(surveyed: 4711, for: report)
    guard case .adjust(let adjustments) = policy.decide(report) else {
      return XCTFail("no adjustment")
    }
    XCTAssertTrue(adjustments.first?.reason.contains("pid 4711") ?? false)
  }

  func testNoQueueGetsLongerThanTheMost() throws {
    var policy = try policy()
    let full = seen(
      .acceptFull, acceptQueue: 65_535, backlog: 65_535, somaxconn: 65_535, clamp: 65_535,
      milliseconds: 1000)
    _ = policy.decide(full)
    let why = held(
      policy.decide(
        seen(.report, backlog: 65_535, somaxconn: 65_535, clamp: 65_535, milliseconds: 1300)))
    XCTAssertTrue(why.contains("no backlog gets longer"), why)
  }

  func testClosedListenersAreForgotten() throws {
    var policy = try policy()
    for port in 1...1000 {
      _ = policy.decide(
        seen(.acceptFull, port: Int64(port), acceptQueue: 128, milliseconds: 1000))
    }
    XCTAssertEqual(policy.pending.count, TCPListen.mostPorts)
    _ = policy.decide(seen(.report, port: 0, milliseconds: 3000))
    XCTAssertTrue(policy.pending.isEmpty)
    XCTAssertNil(policy.recheck)
  }

  // MARK: The queue of SYNs

  private func synFull(
    _ synBacklog: Int64, added: Int64, repeated: Int64 = 0, cookies: Int64 = 0,
    backlog: Int64 = 4096, free: Int64 = 20 * gibibyte, milliseconds: UInt64
  ) -> TCPListen.Observation {
    seen(
      .synFull, synQueue: synBacklog - synBacklog / 4, backlog: backlog, synBacklog: synBacklog,
      synCookies: cookies, somaxconn: 4096, added: added, repeated: repeated, clamp: 4096,
      free: free, milliseconds: milliseconds)
  }

  private func apply(_ decision: Decision, to policy: inout TCPListen) {
    guard case .adjust(let adjustments) = decision else { return }
    for one in adjustments {
      policy.learn(
        one,
        .applied(old: .scalar(one.assumed.number), new: .scalar(one.wanted.number), at: 0))
    }
  }

  func testSYNBacklogGrowsWhileConnectionsRise() throws {
    var policy = try policy()
    let first = policy.decide(synFull(64, added: 50, milliseconds: 1000))
    XCTAssertEqual(changes(first), ["net.ipv4.tcp_max_syn_backlog": 256])
    apply(first, to: &policy)
    XCTAssertEqual(policy.recheck, .seconds(60))
    let second = policy.decide(synFull(256, added: 250, milliseconds: 2000))
    XCTAssertEqual(changes(second), ["net.ipv4.tcp_max_syn_backlog": 1024])
  }

  func testSYNBacklogThatBringsNothingGoesBack() throws {
    var policy = try policy()
    apply(policy.decide(synFull(64, added: 50, milliseconds: 1000)), to: &policy)
    let second = policy.decide(synFull(256, added: 100, milliseconds: 2000))
    XCTAssertEqual(changes(second), ["net.ipv4.tcp_max_syn_backlog": 64])
    apply(second, to: &policy)
    XCTAssertNil(policy.recheck)
    // And stays there.
    XCTAssertEqual(changes(policy.decide(synFull(64, added: 200, milliseconds: 3000))), [:])
  }

  func testSYNBacklogIsBounded() throws {
    var policy = try policy()
    // A third above the backlog is all that the kernel would use.
    XCTAssertEqual(
      changes(policy.decide(synFull(64, added: 50, backlog: 90, milliseconds: 1000))),
      ["net.ipv4.tcp_max_syn_backlog": 122])
    XCTAssertEqual(
      changes(policy.decide(synFull(64, added: 150, free: 1 << 20, milliseconds: 1100))), [:])
  }

  func testCookiesMakeTheSYNBacklogIrrelevant() throws {
    var policy = try policy()
    XCTAssertEqual(
      changes(policy.decide(synFull(64, added: 500, cookies: 1, milliseconds: 1000))), [:])
  }

  func testFloodBringsCookiesAndTheOldBacklog() throws {
    var policy = try policy()
    apply(policy.decide(synFull(64, added: 50, milliseconds: 1000)), to: &policy)
    var flood = synFull(256, added: 51, repeated: 10, milliseconds: 2000)
    flood.scenario = .unanswered
    XCTAssertEqual(changes(policy.decide(flood)), [:], "too few to tell")
    flood.repeated = 190
    flood.added = 52
    flood.time += 200_000_000
    XCTAssertEqual(
      changes(policy.decide(flood)),
      ["net.ipv4.tcp_syncookies": 1, "net.ipv4.tcp_max_syn_backlog": 64])
  }

  func testFloodWithSomeConnectionsRaisesNothing() throws {
    var policy = try policy()
    XCTAssertEqual(
      changes(policy.decide(synFull(64, added: 50, repeated: 400, milliseconds: 1000))), [:])
  }

  func testUnansweredAmongManyConnectionsAreNoFlood() throws {
    var policy = try policy()
    var some = synFull(64, added: 500, repeated: 100, milliseconds: 1000)
    some.scenario = .unanswered
    XCTAssertEqual(changes(policy.decide(some)), [:])
  }

  func testQuietBacklogComesDown() throws {
    var policy = try policy()
    apply(policy.decide(synFull(64, added: 50, milliseconds: 1000)), to: &policy)
    let early = seen(.report, port: 0, synBacklog: 256, milliseconds: 600_000)
    XCTAssertEqual(changes(policy.decide(early)), [:])
    let late = seen(.report, port: 0, synBacklog: 256, milliseconds: 902_000)
    XCTAssertEqual(changes(policy.decide(late)), ["net.ipv4.tcp_max_syn_backlog": 64])
  }
}
