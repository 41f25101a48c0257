import Foundation
import TestSupport
import XCTest

/// Conditions that have to last.
final class RobustnessLongTests: IntegrationTestCase {
  /// Every processor busy, and traffic: events come late, and none is wrong.
  func testBusyProcessorsForAMinute() async throws {
    let path = try await limitedPath()
    let bystander = try await TestNamespace("bystander")
    let untouched = try await bystander.sysctl(Self.wmem)
    let daemon = try await Daemon()
    let busy = try (0..<2 * ProcessInfo.processInfo.activeProcessorCount).map { _ in
      try Command(["sh", "-c", "while :; do :; done"])
    }
    try await assertTunes(path, seconds: 60)
    busy.forEach { $0.signal(SIGKILL) }
    let values = daemon.changes(of: Self.wmem).compactMap {
      $0.firstMatch(of: /-> \d+ \d+ (\d+)/).flatMap { Int($0.1) }
    }
    let last = try await path.left.maximum(Self.wmem)
    let others = try await bystander.sysctl(Self.wmem)
    let status = try await daemon.stop()
    let disabled = daemon.isDisabled(in: path.left)
    await path.close()
    await bystander.delete()
    XCTAssertEqual(status, 0)
    XCTAssertEqual(values, values.sorted(), "each step goes up")
    XCTAssertEqual(values.last, last)
    XCTAssertEqual(others, untouched)
    XCTAssertFalse(disabled)
    assertNoComplaint(daemon)
  }
}
