/// Numbers as the log writes them.
enum Words {
  /// `4 MiB`, `1.9 MiB`, `512 KiB`, `100 B`.
  static func bytes(_ count: Int64) -> String {
    let units = [("GiB", Int64(1) << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
    for (unit, size) in units where count >= size { return "\(tenths(count, per: size)) \(unit)" }
    return "\(count) B"
  }

  /// `20.5 ms`, `350 us`.
  static func microseconds(_ count: Int64) -> String {
    count >= 1000 ? "\(tenths(count, per: 1000)) ms" : "\(count) us"
  }

  /// Bytes in microseconds: `823 Mbit/s`.
  static func rate(_ bytes: Int64, in microseconds: Int64) -> String {
    guard microseconds > 0 else { return "0 bit/s" }
    let kilobits = bytes.multipliedReportingOverflow(by: 8000).partialValue / microseconds
    return kilobits >= 1000 ? "\(tenths(kilobits, per: 1000)) Mbit/s" : "\(kilobits) kbit/s"
  }

  /// Parts of a million: `2.1 %`, `0.05 %`.
  static func percent(ofMillion parts: Int64) -> String {
    if parts >= 10_000 { return "\(tenths(parts, per: 10_000)) %" }
    let hundredths = (parts + 50) / 100
    return hundredths == 0 ? "0 %" : "0.\(hundredths < 10 ? "0" : "")\(hundredths) %"
  }

  /// Text of at most 16 bytes in two numbers: of a device, or a command.
  static func text(_ low: Int64, _ high: Int64) -> String {
    withUnsafeBytes(of: (low, high)) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  }

  /// `0, 3, 5`; those after the eighth as a number of them.
  static func list(_ numbers: Set<Int>) -> String {
    let sorted = numbers.sorted()
    let more = sorted.count > 8 ? " and \(sorted.count - 8) more" : ""
    return sorted.prefix(8).map(String.init).joined(separator: ", ") + more
  }

  /// One decimal below ten, none above.
  private static func tenths(_ count: Int64, per unit: Int64) -> String {
    let whole = count / unit
    let tenth = (count % unit) * 10 / unit
    return whole < 100 && tenth != 0 ? "\(whole).\(tenth)" : "\(whole)"
  }
}
