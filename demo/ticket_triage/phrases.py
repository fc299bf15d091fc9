"""The sentences that tickets are composed of. They alone determine the labels."""

from __future__ import annotations

GREETINGS = ("", "", "", "Hi!", "Hello!", "Hi there!", "Hi team!", "Hey!", "Good morning!", "Good afternoon!")

PRODUCTS = (
    "mesh router",
    "video doorbell",
    "smart kettle",
    "fitness band",
    "sound bar",
    "e-reader",
    "air purifier",
    "garden camera",
    "noise-cancelling headset",
    "robot vacuum",
    "label printer",
    "home thermostat",
)

ISSUES = {
    "billing": (
        "I was charged twice for the {product}.",
        "The invoice for my {product} shows the wrong amount.",
        "The discount code was not applied to the {product}.",
        "My refund for the {product} has not reached my bank.",
        "Your invoice for the {product} lacks our tax number.",
        "I still pay for the {product} although I cancelled the plan.",
        "The price of the {product} went up without a notice.",
        "My card was declined when I paid for the {product}.",
        "I need a receipt for the {product} for my accountant.",
        "Can I pay for the {product} in monthly instalments?",
    ),
    "shipping": (
        "The parcel with my {product} has not arrived.",
        "Tracking for the {product} has not moved for days.",
        "The courier left the {product} at the wrong address.",
        "The box was crushed and the {product} came out scratched.",
        "You sent me a different colour of the {product}.",
        "Can I still change the address that the {product} goes to?",
        "The {product} was returned to your warehouse by the carrier.",
        "When will the {product} be dispatched?",
        "How do I send the {product} back to you?",
        "Customs is holding the package with the {product}.",
    ),
    "account": (
        "I cannot sign in to manage my {product}.",
        "The password reset mail for my {product} never comes.",
        "My profile is locked, so I cannot reach the {product}.",
        "Please delete my profile and all data about the {product}.",
        "I want to change the email address linked to the {product}.",
        "The login code for the {product} is always rejected.",
        "Somebody else seems to have logged in to my {product}.",
        "How do I add a second user to the {product}?",
        "Please transfer ownership of the {product} to my colleague.",
        "My user name for the {product} is spelt wrong.",
    ),
    "technical": (
        "The {product} does not turn on any more.",
        "The {product} freezes after a few minutes.",
        "The {product} shows error code E42 on its display.",
        "Since the last update the {product} restarts by itself.",
        "The {product} loses its wireless connection all the time.",
        "The battery of the {product} drains within an hour.",
        "The {product} makes a loud clicking noise.",
        "The {product} does not respond to its buttons.",
        "How do I reset the {product} to factory settings?",
        "The {product} runs very slowly and gets hot.",
    ),
}

URGENCIES = {
    "low": (
        "No rush at all.",
        "It can wait until next month.",
        "Whenever you find the time is fine.",
        "There is no hurry on my side.",
        "This is only a small thing, take your time.",
        "I am just curious, answer when it suits you.",
        "Not important, but I wanted to mention it.",
    ),
    "normal": (
        "",
        "",
        "Please get back to me this week.",
        "A reply in the next few days would be great.",
        "Could you look into it, please?",
        "I would like to have this sorted out soon.",
        "Let me know what you need from me.",
        "Thanks for having a look at it.",
    ),
    "high": (
        "This is urgent.",
        "I need a solution today.",
        "We cannot work until this is solved.",
        "Please call me back within the hour.",
        "It is an emergency for our shop.",
        "I have to leave tomorrow morning and need it before that.",
        "Please treat this with the highest priority.",
        "Every hour of delay costs us customers.",
    ),
}

# Each sentence praises the work of one team, so that single words do not determine the label.
SETTLED = {
    "billing": ("The price was fair.", "The payment itself went through."),
    "shipping": ("Delivery was quick, by the way.", "The parcel arrived in good shape."),
    "account": ("Signing in is no problem.", "My password works."),
    "technical": ("Otherwise the device works well.", "The last update went fine."),
}

ASIDES = (
    "I have been a customer for three years.",
    "We bought it for the office.",
    "It was a present.",
    "I already read your help pages.",
    "A colleague recommended it to me.",
    "We have four of them.",
    "My order number is {order}.",
    "See order {order}.",
)

CLOSINGS = ("", "", "", "", "", "", "Thanks!", "Thank you.", "Kind regards", "Best wishes", "Many thanks in advance.")
