import Foundation
import Kernel
import TestSupport
import Tuners
import XCTest

/// conntrack with real connections: what is not needed at every build.
final class ConntrackLongTests: ConntrackTestCase {
  // MARK: Back to what it was

  /// With seconds in place of minutes.
  func testGoesBackWhenQuiet() async throws {
    let tuner = try await OneTuner(surveyed: 0) {
      Conntrack(
        learningRate: $0,
        times: Conntrack.Times(interval: .milliseconds(200), quiet: .milliseconds(1000)))
    }
    let namespace = try await Self.namespace("back", "ct state new counter")
    _ = try await connect(400, in: namespace)
    let raised = try await values()
    await namespace.delete()
    try await eventually("the usual limit") { try await self.values() == [200, 512] }
    await tuner.stop()
    XCTAssertGreaterThan(raised[0], 400)
  }
}
