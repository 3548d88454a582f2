// A shop's courier: books a parcel for each order, then waits until the day is closed. It knows nothing of Holdfast.
const shop = process.env.SHOP_URL;

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(shop + path, options);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

for (const order of await ask("/orders")) await ask("/parcels", { order: order.order, to: order.to });
console.error("every parcel is booked");
while (!(await ask("/day")).closed) await new Promise((later) => setTimeout(later, 300));
console.log("the day is closed");
