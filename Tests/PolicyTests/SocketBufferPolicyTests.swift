import Kernel
import XCTest

@testable import Tuners

/// The policy of socket-buffer, without a kernel.
final class SocketBufferPolicyTests: XCTestCase {
  private func seen(
    _ scenario: SocketBuffer.Scenario, size: Int64, limit: Int64 = 212_992, local: Int64 = 40000,
    remote: Int64 = 5201, free: Int64 = 20 << 30
  ) -> SocketBuffer.Observation {
    SocketBuffer.Observation(
      scenario: scenario, size: size, limit: limit, localPort: local, remotePort: remote,
      process: 7, command: "app", rtt: 40_000, percent: 80, bytes: 1 << 21, freeMemory: free,
      time: 0)
  }

  private func policy(_ level: Int = 4) throws -> SocketBuffer {
    SocketBuffer(learningRate: try XCTUnwrap(LearningRate(level)))
  }

  private func wanted(_ decision: Decision) -> [String: Int64] {
    guard case .adjust(let adjustments) = decision else { return [:] }
    return Dictionary(
      uniqueKeysWithValues: adjustments.map { ($0.tunable.name, $0.wanted.number) })
  }

  private func apply(_ decision: Decision, to policy: inout SocketBuffer) {
    guard case .adjust(let adjustments) = decision else { return }
    for one in adjustments {
      policy.learn(
        one, .applied(old: .scalar(one.assumed.number), new: .scalar(one.wanted.number), at: 0))
    }
  }

  func testRequestIsGranted() throws {
    var policy = try policy()
    XCTAssertEqual(
      wanted(policy.decide(seen(.sendClamped, size: 1_000_000))),
      ["net.core.wmem_max": 1_003_520])
    XCTAssertEqual(
      wanted(policy.decide(seen(.receiveClamped, size: 4 << 20))), ["net.core.rmem_max": 4 << 20])
  }

  func testWhatIsAllowedByNowChangesNothing() throws {
    var policy = try policy()
    XCTAssertNil(policy.recheck)
    apply(policy.decide(seen(.sendClamped, size: 4 << 20)), to: &policy)
    XCTAssertEqual(wanted(policy.decide(seen(.sendClamped, size: 2 << 20))), [:])
    XCTAssertEqual(policy.recheck, .seconds(3600))
  }

  func testAbsurdRequestsAreNotFollowed() throws {
    var policy = try policy()
    for (size, free): (Int64, Int64) in [
      (Int64(Int32.max), 20 << 30), (65 << 20, 1 << 40), (2 << 20, 256 << 20),
    ] {
      guard case .hold(let why, _) = policy.decide(seen(.sendClamped, size: size, free: free))
      else { return XCTFail("followed \(size)") }
      XCTAssertTrue(why.contains("the memory bears no more"), why)
    }
  }

  func testCautiousSteps() throws {
    var policy = try policy(0)
    XCTAssertLessThan(
      wanted(policy.decide(seen(.sendClamped, size: 4 << 20))).values.first ?? .max, 300_000)
  }

  func testAnotherValueIsLearned() throws {
    var policy = try policy()
    guard case .adjust(let first) = policy.decide(seen(.sendClamped, size: 4 << 20)) else {
      return XCTFail("no adjustment")
    }
    policy.learn(first[0], .refused(.stale(current: .scalar(1 << 20))))
    guard case .adjust(let second) = policy.decide(seen(.sendClamped, size: 4 << 20)) else {
      return XCTFail("no adjustment")
    }
    XCTAssertEqual(second.first?.assumed.number, 1 << 20)
  }

  func testComesDownToWhatIsAskedFor() throws {
    var policy = try policy()
    apply(policy.decide(seen(.sendClamped, size: 4 << 20)), to: &policy)
    let some = policy.decide(seen(.sendReport, size: 1 << 20))
    XCTAssertEqual(wanted(some), ["net.core.wmem_max": 1 << 20])
    apply(some, to: &policy)
    let none = policy.decide(seen(.sendReport, size: 0))
    XCTAssertEqual(wanted(none), ["net.core.wmem_max": 212_992])
    apply(none, to: &policy)
    XCTAssertNil(policy.recheck)
    XCTAssertEqual(wanted(policy.decide(seen(.sendReport, size: 0))), [:])
  }

  func testLockedBuffersAreFindings() throws {
    var policy = try policy()
    guard case .hold(let why, _) = policy.decide(seen(.sendLocked, size: 32768)) else {
      return XCTFail("no advice")
    }
    XCTAssertTrue(why.contains("port 5201: a send buffer locked at 32 KiB by SO_SNDBUF"), why)
    _ = policy.decide(seen(.sendLocked, size: 16384))
    _ = policy.decide(seen(.receiveLocked, size: 65536, local: 80, remote: 50000))
    XCTAssertEqual(
      policy.findings,
      [
        "port 80 sizes its buffers wrongly: SO_RCVBUF of 64 KiB was too small for its path (once)",
        "port 5201 sizes its buffers wrongly: SO_SNDBUF of 16 KiB was too small for its path (2 times)",
      ])
    for port in 1...1000 {
      _ = policy.decide(seen(.sendLocked, size: 1, local: Int64(port), remote: 60000))
    }
    // Port 80 has one for either direction.
    XCTAssertEqual(policy.findings.count, SocketBuffer.mostPorts + 1)
    // Two ports that no service has.
    var other = try self.policy()
    _ = other.decide(seen(.sendLocked, size: 1, local: 50000, remote: 60000))
    XCTAssertEqual(other.findings, [])
  }
}
