"""What an Android engineer takes over with a .tflite: Kotlin for its signature, Gradle lines, and a test with expected outputs."""
