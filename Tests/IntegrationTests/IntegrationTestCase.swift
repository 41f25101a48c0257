import Foundation
import TestSupport
import XCTest

/// What every test with the real kernel starts from.
class IntegrationTestCase: XCTestCase {
  static let wmem = "net.ipv4.tcp_wmem"
  static let rmem = "net.ipv4.tcp_rmem"

  override func setUp() async throws {
    guard geteuid() == 0 else {
      throw Command.Failure("the integration tests need root: run them with sudo")
    }
    continueAfterFailure = false
  }

  /// The starting size in a buffer's tunable: its second number.
  func initial(_ tunable: String, in namespace: TestNamespace) async throws -> Int {
    Int(try await namespace.sysctl(tunable).split(separator: " ").dropFirst().first ?? "") ?? -1
  }
}
