import Glibc

/// What the process may do.
public enum Privileges {
  /// Names of the capabilities (include/uapi/linux/capability.h) that the
  /// daemon needs and does not hold. CAP_SYS_ADMIN stands for `setns`,
  /// CAP_NET_ADMIN for sysctls, both with CAP_BPF and CAP_PERFMON for programs.
  public static func missing() -> [String] {
    let effective = effectiveCapabilities()
    func holds(_ bit: Int) -> Bool { effective & (1 << bit) != 0 }
    var missing: [String] = []
    if !holds(12) { missing.append("CAP_NET_ADMIN") }
    if !holds(21) { missing.append("CAP_SYS_ADMIN") }
    return missing
  }

  private static func effectiveCapabilities() -> UInt64 {
    guard let bytes = try? contents(of: "/proc/self/status") else { return 0 }
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
      if line.hasPrefix("CapEff:") {
        return UInt64(line.dropFirst(7).drop(while: \.isWhitespace), radix: 16) ?? 0
      }
    }
    return 0
  }
}
