"""Questions in ten scripts, each with its opposite and one about something else; written for these tests."""

SCRIPTS = {
    "Chinese": ("如何开启深色模式", "如何关闭深色模式", "今天天气怎么样"),
    "Japanese": ("ダークモードを有効にする方法", "ダークモードを無効にする方法", "今日の天気はどうですか"),
    "Korean": ("다크 모드를 켜는 방법", "다크 모드를 끄는 방법", "오늘 날씨가 어때요"),
    "Thai": ("วิธีเปิดโหมดมืด", "วิธีปิดโหมดมืด", "วันนี้อากาศเป็นอย่างไร"),
    "Arabic": ("كيف أفعل الوضع الداكن", "كيف أعطل الوضع الداكن", "كيف الطقس اليوم"),
    "Hebrew": ("איך מפעילים מצב כהה", "איך מכבים מצב כהה", "מה מזג האוויר היום"),
    "Hindi": ("डार्क मोड कैसे चालू करें", "डार्क मोड कैसे बंद करें", "आज मौसम कैसा है"),
    "Russian": ("как включить тёмную тему", "как выключить тёмную тему", "какая сегодня погода"),
    "Greek": ("πώς ενεργοποιώ τη σκούρα λειτουργία", "πώς απενεργοποιώ τη σκούρα λειτουργία", "τι καιρό κάνει σήμερα"),
    "emoji": ("🌙🔛", "🌙📴", "🍕🛵"),
    "emoji in English": (
        "what does ✅ beside an order mean",
        "what does ❌ beside an order mean",
        "where is 🛵 on the map",
    ),
    "Chinese in English": (
        "how to 开启 dark mode in the app",
        "how to 关闭 dark mode in the app",
        "how to 删除 my account",
    ),
}
# Question, the same in other words, its opposite: what encoder and guard read.
READABLE = {
    "English": (
        "how do I turn on dark mode",
        "hi, how can I turn on the dark mode please",
        "how do I turn off dark mode",
    ),
    "French": (
        "comment activer le mode sombre",
        "comment activer le mode sombre ?",
        "comment désactiver le mode sombre",
    ),
    "German": ("wie lösche ich mein Konto", "wie lösche ich mein Konto?", "wie öffne ich ein Konto"),
}
