/// Decodes the base64 of embedded objects; without Foundation, which would add
/// several megabytes to the daemon for this alone.
enum Base64 {
  /// Nil when the text is not base64 with padding.
  static func decode(_ text: StaticString) -> [UInt8]? {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(text.utf8CodeUnitCount / 4 * 3)
    var accumulator: UInt32 = 0
    var bits = 0
    for character in UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount) {
      let digit: UInt8
      switch character {
      case UInt8(ascii: "A")...UInt8(ascii: "Z"): digit = character - 65
      case UInt8(ascii: "a")...UInt8(ascii: "z"): digit = character - 97 + 26
      case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = character - 48 + 52
      case UInt8(ascii: "+"): digit = 62
      case UInt8(ascii: "/"): digit = 63
      case UInt8(ascii: "="): continue
      default: return nil
      }
      accumulator = accumulator << 6 | UInt32(digit)
      bits += 6
      if bits >= 8 {
        bits -= 8
        bytes.append(UInt8(truncatingIfNeeded: accumulator >> UInt32(bits)))
      }
    }
    return bytes
  }
}
