import Foundation
import TestSupport
import XCTest

/// A daemon with tuners from outside, and what makes those act.
class ModuleTestCase: IntegrationTestCase {
  static let groups = "net.ipv4.igmp_max_memberships"
  static let sources = "net.ipv4.igmp_max_msf"

  /// A namespace with low limits, and a directory of modules.
  func place(_ modules: String...) async throws -> (TestNamespace, ModuleDirectory) {
    let namespace = try await TestNamespace("module")
    try await namespace.set(Self.groups, "5")
    try await namespace.set(Self.sources, "10")
    let directory = try ModuleDirectory()
    for module in modules { try directory.install(module) }
    return (namespace, directory)
  }

  func bpftune(_ arguments: String...) async throws -> String {
    let command = try Command([Products.path("bpftune")] + arguments)
    try await command.wait()
    return command.output
  }

  /// Processes that run a module on this machine.
  static func hosts() -> [String] {
    let processes = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
    return processes.filter { pid in
      let link = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(pid)/exe")
      return link?.hasSuffix("/bpftune-module-host") ?? false
    }
  }
}
