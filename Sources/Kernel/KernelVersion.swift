import Glibc

/// A kernel's version, as far as it says what the kernel can do.
public struct KernelVersion: Comparable, Sendable, CustomStringConvertible {
  public let major: Int
  public let minor: Int

  public init(_ major: Int, _ minor: Int) {
    self.major = major
    self.minor = minor
  }

  /// From what `uname -r` prints: `6.1.0-56-amd64`. 0.0 when it is no version.
  public init(release: String) {
    let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
    self.init(numbers.first ?? 0, numbers.dropFirst().first ?? 0)
  }

  /// What `uname -r` prints.
  public static var release: String {
    var name = utsname()
    guard uname(&name) == 0 else { return "unknown" }
    return withUnsafeBytes(of: name.release) {
      String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
    }
  }

  public static let running = KernelVersion(release: release)

  public static func < (left: Self, right: Self) -> Bool {
    (left.major, left.minor) < (right.major, right.minor)
  }

  public var description: String { "\(major).\(minor)" }
}
