import Foundation

/// A directory of tuners from outside, of a test's own; gone with the value.
public final class ModuleDirectory: Sendable {
  public let path: String

  /// Not in /tmp, where others can write: the daemon would refuse it.
  public init() throws {
    path = "/run/bpftune-test-\(UUID().uuidString)"
    try FileManager.default.createDirectory(
      atPath: path, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o755])
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  /// Where a tuner lies that was built with the tests.
  public static func built(_ name: String) -> String { BuiltModules.directory + "/\(name).so" }

  /// Puts one there as a package manager does: under another name first.
  public func install(_ name: String, as other: String? = nil) throws {
    let target = path + "/" + (other ?? name + ".so")
    let temporary = target + ".dpkg-new"
    try? FileManager.default.removeItem(atPath: temporary)
    try FileManager.default.copyItem(atPath: Self.built(name), toPath: temporary)
    guard chown(temporary, 0, 0) == 0, chmod(temporary, 0o644) == 0,
      rename(temporary, target) == 0
    else { throw Command.Failure("cannot install \(name)") }
  }

  public func remove(_ name: String) throws {
    try FileManager.default.removeItem(atPath: path + "/\(name).so")
  }
}
