import Glibc

/// A point in time, to the millisecond, as JSON and people write it.
struct Moment: Sendable, Comparable {
  /// Milliseconds since 1970-01-01 00:00 UTC.
  let milliseconds: Int64

  init(milliseconds: Int64) { self.milliseconds = milliseconds }

  static var now: Moment {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Moment(milliseconds: Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000)
  }

  /// `2026-11-22T21:44:52.869Z`
  var iso: String {
    let parts = broken(gmtime_r)
    return "\(Self.pad(parts.tm_year + 1900, 4))-\(Self.pad(parts.tm_mon + 1))-"
      + "\(Self.pad(parts.tm_mday))T\(Self.clock(parts)).\(Self.pad(Int32(milliseconds % 1000), 3))Z"
  }

  /// `21:44:52`, local.
  var clock: String { Self.clock(broken(localtime_r)) }

  /// `2026-11-22 21:44:52`, local.
  var local: String {
    let parts = broken(localtime_r)
    return "\(Self.pad(parts.tm_year + 1900, 4))-\(Self.pad(parts.tm_mon + 1))-"
      + "\(Self.pad(parts.tm_mday)) \(Self.clock(parts))"
  }

  /// What `iso` gives, also without milliseconds, time of day or Z.
  init?(iso text: String) {
    var numbers: [Int32] = []
    var fraction: Int64 = 0
    let words = text.split(whereSeparator: { "-T :.Z".contains($0) })
    guard (3...7).contains(words.count), words[0].count == 4 else { return nil }
    for word in words.prefix(6) {
      guard let number = Int32(word), number >= 0 else { return nil }
      numbers.append(number)
    }
    if words.count == 7 { fraction = Int64(words[6].prefix(3)) ?? 0 }
    numbers += [Int32](repeating: 0, count: 6 - numbers.count)
    var parts = tm()
    parts.tm_year = numbers[0] - 1900
    parts.tm_mon = numbers[1] - 1
    parts.tm_mday = numbers[2]
    parts.tm_hour = numbers[3]
    parts.tm_min = numbers[4]
    parts.tm_sec = numbers[5]
    parts.tm_isdst = -1
    let seconds = text.hasSuffix("Z") ? timegm(&parts) : mktime(&parts)
    guard seconds >= 0 else { return nil }
    milliseconds = Int64(seconds) * 1000 + fraction
  }

  /// `90s`, `15m`, `2h`, `3d` before now, or a date as above.
  init?(since text: String, now: Moment = .now) {
    let units: [Character: Int64] = ["s": 1, "m": 60, "h": 3600, "d": 86400]
    if let last = text.last, let unit = units[last], let count = Int64(text.dropLast()), count >= 0,
      count < 1 << 32
    {
      self.init(milliseconds: now.milliseconds - count * unit * 1000)
    } else {
      self.init(iso: text)
    }
  }

  static func < (a: Moment, b: Moment) -> Bool { a.milliseconds < b.milliseconds }

  private func broken(
    _ convert: (UnsafePointer<time_t>, UnsafeMutablePointer<tm>) -> UnsafeMutablePointer<tm>?
  ) -> tm {
    var seconds = time_t(milliseconds / 1000)
    var parts = tm()
    _ = convert(&seconds, &parts)
    return parts
  }

  private static func clock(_ parts: tm) -> String {
    "\(pad(parts.tm_hour)):\(pad(parts.tm_min)):\(pad(parts.tm_sec))"
  }

  private static func pad(_ number: Int32, _ width: Int = 2) -> String {
    let digits = String(number)
    return String(repeating: "0", count: max(0, width - digits.count)) + digits
  }
}
